"""What gin can bind is listed with its parameters; a mistyped name gets the nearest right one."""

import inspect
import pathlib
import re

import gin
import pytest
from gin import config as gin_config

from implicit_rl.compat import gin_names
from implicit_rl.running import configurables, experiment

ROOT = pathlib.Path(__file__).parent.parent.parent
CQL = str(ROOT / 'gin_configs/minatar/offline_cql.gin')


@pytest.fixture(scope='module')
def known():
  configurables.load(everything=True)
  return {one.name: one for one in gin_names.configurables()}


def test_every_configurable_of_the_project_is_listed(known):
  listing = gin_names.listing()
  headings = set(re.findall(r'^(\S+)$', listing, re.MULTILINE))
  for path in (ROOT / 'implicit_rl').rglob('*.py'):
    text = path.read_text()
    pattern = r"^@gin\.configurable(?:\('(\w+)')?.*?\n(?:@.*\n)*(?:class|def) (\w+)"
    for given, defined in re.findall(pattern, text, re.MULTILINE):
      name = given or defined
      assert any(heading.split('.')[-1] == name for heading in headings), (path, name)
  assert 'create_atari_environment' in listing  # Dopamine's are named at the end.


def test_the_listed_parameters_can_be_bound(known):
  """Gin itself takes each; what the program hands over is not offered."""
  for one in known.values():
    if one.ours:
      for parameter in one.parameters:
        gin.bind_parameter(f'{one.name}.{parameter}', None)
  assert 'loss' not in known['Learner'].parameters
  assert 'seed' not in known['Agent'].parameters
  assert known['BehaviourCloningAgent'].parameters == {}


def test_a_runner_is_bound_by_what_it_forwards_to_its_base(known):
  @gin.configurable(module='test', denylist=['base_dir'])
  class ShortRunner(experiment.OnlineRunner):
    """A user's own, which forwards everything but one argument."""

    def __init__(self, *args, num_iterations: int = 7, warmup: int = 3, **kwargs):
      self.warmup = warmup
      super().__init__(*args, num_iterations=num_iterations, **kwargs)

  expected = {'num_iterations': 7, 'warmup': 3, 'updates_per_step': 0.25, 'num_seeds': 1}
  assert {name: gin_names.bound(ShortRunner, name) for name in expected} == expected
  assert gin_names.bound(experiment.OnlineRunner, 'num_iterations') == 200
  assert gin_names.bound(experiment.OfflineRunner, 'num_iterations') == 500
  assert gin_names.bound(experiment.OfflineRunner, 'updates_per_step') is None
  gin.bind_parameter('ShortRunner.keep_checkpoints', 9)
  assert gin_names.bound(ShortRunner, 'keep_checkpoints') == 9
  for name in ('kept_checkpoints', 'base_dir', 'kwargs'):
    with pytest.raises(ValueError, match=name):
      gin.bind_parameter(f'ShortRunner.{name}', 1)
  offline = known['OfflineRunner'].parameters
  assert (offline['num_seeds'], offline['evaluation_steps']) == (1, 125_000)
  assert 'clip_rewards' not in offline and 'clip_rewards' in known['OnlineRunner'].parameters
  listing = gin_names.listing(['OfflineRunner'])
  assert 'how many of the newest checkpoints are kept' in listing  # As the base describes it,
  assert '2048 in the paper' not in listing  # unless the subclass does.


def test_a_default_that_is_listed_is_the_default(known):
  learner = gin_config._REGISTRY[known['Learner'].selector].wrapped
  period = inspect.signature(learner).parameters['target_update_period'].default
  text = gin_names.listing(['Learner'])
  assert f'Learner.target_update_period = {period}' in text
  assert 'gradient updates between two changes of the target network' in text
  assert 'CQLAgent.weight = 1.0' in gin_names.listing(['cql'])  # A part of a name finds it.
  with pytest.raises(ValueError, match='Did you mean Learner'):
    gin_names.listing(['Lerner'])


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('Learner.penalty_wieght = 1', 'Did you mean penalty_weight?'),
    ('Lerner.penalty_weight = 1', 'Did you mean Learner?'),
    ('Agent.penalty_weight = 1', 'Did you mean Learner.penalty_weight?'),
    ('optax.adam.learning_rat = 1', 'Did you mean learning_rate?'),
    ('Experiment.agent = @cql.CQLAgnet', 'Did you mean cql.CQLAgent?'),
    ('Experiment.agent = @rainbow.RainbowAgnt', 'Did you mean rainbow.RainbowAgent?'),
    ('Experiment.runner = @OnlinRunner', 'Did you mean OnlineRunner?'),
    ('Agent.network = @NatureCNNN', 'Did you mean NatureCNN?'),
    ('Learner.optimizer = @optax.adamm()', 'Did you mean optax.adam?'),
    ('Agent.network = %GMAE', 'No gin file defines %GMAE. Did you mean GAME?'),
    ('Experiment.agent = dqn.DQNAgent', "a class's name starts with @"),
    ("collector_dispatcher.CollectorDispatcher.collectors = ('wand',)", 'Did you mean wandb?'),
    ('Learner.qqq = 1', "doesn't have a parameter named 'qqq'. In"),
  ],
)
def test_a_mistyped_name_gets_the_nearest(line, expected):
  with pytest.raises((ValueError, KeyError)) as raised:
    experiment.parse_gin([CQL], [line])
  message = ' '.join(str(raised.value).split())
  assert expected in gin_names.explain(message)


def test_a_name_that_dopamine_has_too_is_ours():
  dopamines = 'dopamine.tf.agents.dqn.dqn_agent.DQNAgent'
  explained = gin_names.explain(
    f"Ambiguous selector 'DQNAgent', matches ['implicit_rl.agents.dqn.DQNAgent', '{dopamines}']."
  )
  assert 'Did you mean dqn.DQNAgent?' in explained


def test_what_fails_in_a_constructor_is_explained_too():
  explained = gin_names.explain("Agent.__init__() got an unexpected keyword argument 'gama'")
  assert explained.endswith("'gama'. Did you mean Agent.gamma?")
  explained = gin_names.explain("missing 1 required positional argument: 'num_actions' No values")
  assert 'without parentheses' in explained
  assert gin_names.explain('an error of another kind') == 'an error of another kind'


def test_a_hint_is_given_once():
  """The sweep and --list_configurables explain what has been explained."""
  once = gin_names.explain("No configurable matching reference '@NatureCNNN'.")
  assert gin_names.explain(once) == once and once.count('Did you mean NatureCNN?') == 1


def test_any_agent_is_one_line_away():
  """A gin file need not import the agent that a later line names."""
  experiment.parse_gin([CQL.replace('cql', 'dqn')], ['Experiment.agent = @rem.REMAgent'])
  assert 'REMAgent' in repr(gin.query_parameter('Experiment.agent'))
