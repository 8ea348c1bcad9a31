"""Every shipped mix-in acts, reports and resumes bit for bit, in every setting.

A mix-in is a file of the folders KINDS below gin_configs; a new one is found by itself. `make test`
trains each remedy alone offline on MinAtar, and a remedy of each kind together online. `make
test-all` trains each mix-in alone in every setting, and in groups whose members share a program:
what a setting can get wrong is how the learner's state travels through its loop, and that is one
for all. A mix-in that excludes another, such as two activations, is in a group of its own. Seeds
that train as one vmapped program share the groups.
"""

import dataclasses
import functools
import pathlib
import re
import shutil

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl import environments
from implicit_rl.data.sources import tfds_replay
from implicit_rl.logs import checkpoints, running_means
from implicit_rl.running import compiled_online_loop, experiment
from implicit_rl.running.vmapped_agents import VmappedAgents
from implicit_rl.running.vmapped_loops import VmappedLoops
from tests.cases import cases
from tests.command_line import MINATAR_REPLAY, OFFLINE, ONLINE, ROOT, run
from tests.faults import processes
from tests.same_end import assert_same_end

KINDS = ('remedies', 'penalties', 'losses', 'networks', 'normalisation', 'optimizers')
MIX_INS = [
  f'{kind}/{path.stem}'
  for kind in KINDS
  for path in sorted((ROOT / 'gin_configs' / kind).glob('*.gin'))
]
REMEDIES = [name for name in MIX_INS if name.startswith(('remedies/', 'penalties/'))]
GROUPS = {
  'kinds': [  # A loss term, one with a state, one that acts at times, another network, a penalty.
    'remedies/dr3',
    'remedies/l2_init',
    'remedies/redo',
    'remedies/plasticity_injection',
    'penalties/lp',
  ],
  'remedies': [
    *(name for name in REMEDIES if name != 'remedies/plasticity_injection'),
    'losses/target_clipping_rewards',
  ],
  'injection': [
    'remedies/plasticity_injection',
    'networks/crelu',
    'normalisation/rms_norm',
    'losses/hl_gauss',
    'optimizers/weight_decay',
  ],
  'fourier': [
    'networks/fourier',
    'normalisation/feature_norm',
    'losses/munchausen',
    'losses/target_clipping_returns',
  ],
  'hadamard': ['networks/hadamard', 'normalisation/spectral_norm', 'networks/wide'],
  'tanh': ['networks/tanh', 'normalisation/layer_norm', 'networks/nature_valid'],
  'gelu': ['networks/gelu', 'networks/small'],
  'simba': ['networks/simba'],
  'soft_moe': ['networks/soft_moe'],
}
ATARI_NETWORKS = {'networks/nature_valid', 'networks/small'}
# What has no sense there; the refusals are tested in test_mix_ins.py.
LEFT_OUT = {
  'offline MinAtar': ATARI_NETWORKS,
  'online MinAtar': ATARI_NETWORKS | {'losses/target_clipping_returns'},
  'Atari': {'networks/simba'},
  'MuJoCo': ATARI_NETWORKS | {'networks/soft_moe', 'losses/hl_gauss', 'losses/munchausen'},
}
OWN_METRICS = {
  'losses/hl_gauss': 'Targets/BeyondBins',
  'losses/munchausen': 'Munchausen/Bonus',
  'losses/target_clipping_rewards': 'Targets/Clipped',
  'losses/target_clipping_returns': 'Targets/Clipped',
}
# So that it acts within four updates, where its period does not see to that.
SOONER = {
  'CChain.warm_up': 3,
  'ContinualBackprop.maturity': 0,
  'ContinualBackprop.rate': 1.0,
  'MagnitudePruning.begin': 0,
  'MagnitudePruning.end': 4,
  'PlasticityInjection.after': 2,
}
SIZES = """
import implicit_rl.networks
import implicit_rl.simba
import implicit_rl.soft_moe
networks.MinAtarCNN.hidden_units = 16
networks.NatureCNN.hidden_units = 16
networks.SmallCNN.hidden_units = 16
networks.ActorCritic.hidden_units = (8, 8)
simba.SimBaActorCritic.hidden_units = (256, 256)  # Its default: it has none.
simba.SimBaActorCritic.actor_width = 8
simba.SimBaActorCritic.critic_width = 8
"""
SMALL = [
  'Agent.batch_size = 4',
  'simba.SimBa.width = 8',
  'soft_moe.SoftMoE.num_experts = 2',
  'soft_moe.SoftMoE.hidden_units = 4',
]


def sooner(name):
  """Bindings that let a mix-in act within the first few updates."""
  bindings = {}
  for class_name in re.findall(r'@([\w.]+)\(\)', gin_file(name).read_text()):
    one = gin.get_configurable(class_name)
    fields = {x.name for x in dataclasses.fields(one)} if dataclasses.is_dataclass(one) else ()
    bindings |= {f'{class_name}.period': 2} if 'period' in fields else {}
    bindings |= {key: value for key, value in SOONER.items() if key.startswith(f'{class_name}.')}
  return bindings


def gin_file(name):
  return ROOT / 'gin_configs' / f'{name}.gin'


@functools.cache
def embedded(dataset, game, shape, stack_size):
  """A replay that is embedded in the package, read once."""
  return tfds_replay.TFDSReplay(
    dataset=dataset,
    game=game,
    run=1,
    observation_shape=shape,
    observation_dtype=np.uint8,
    stack_size=stack_size,
    update_horizon=1,
    gamma=0.99,
    seed=0,
    return_to_go=True,
  )


class Trained:
  """An agent of a setting with mix-ins; `train` does two updates."""

  def __init__(self, setting, mix_ins, sizes, hopper, seed=0):
    kind, bindings = setting.split()[-1].lower(), list(SMALL)
    agent = 'online_dqn' if 'online' in setting else 'offline_dqn'
    if setting == 'MuJoCo':
      agent = 'offline_sac'
      bindings.append(f"VectorReplay.path = '{hopper}'")
      if 'networks/simba' in mix_ins:
        bindings.append('Agent.network = @simba.SimBaActorCritic')
    else:
      bindings.append('Learner.target_update_period = 2')
    if 'online' in setting:
      bindings += [f'{name} = {value}' for name, value in MINATAR_REPLAY.items()]
    files = [str(ROOT / f'gin_configs/{kind}/{agent}.gin'), str(sizes)]
    experiment.parse_gin(files + [str(gin_file(name)) for name in mix_ins], bindings)
    with gin.unlock_config():
      for name in mix_ins:
        gin.parse_config([f'{key} = {value}' for key, value in sooner(name).items()])
    made = gin.query_parameter('Experiment.agent').configurable.wrapper
    self.loop = None
    if setting == 'MuJoCo':
      self.agent = made(3, (11,), np.float32, 1, seed=seed)
      return
    if setting == 'Atari':
      source = embedded('rlu_atari_checkpoints_ordered', 'Pong', (84, 84), 4)
      shape, actions = ((84, 84), np.uint8, 4), 6
    else:
      source = embedded('minatar_checkpoints_ordered', 'Breakout', (10, 10, 4), 1)
      shape, actions = ((10, 10, 4), np.uint8, 1), 3
    if 'online' in setting:
      self.agent = made(actions, *shape, seed=seed)
      environment = environments.minatar.MinAtarEnvironment(seed=0)
      self.loop = compiled_online_loop.OnlineLoop(self.agent, environment)
    else:  # But for the seed, what an agent tells its source is the same for all of them.
      told = lambda seed, return_to_go=False, **told: source.with_seed(seed)
      self.agent = made(actions, *shape, told, seed=seed)

  def train(self):
    """Two updates; returns what they report."""
    if self.loop is None:
      return self.agent.train(2)
    return self.loop.run(8 if self.agent.updates else 16).sums.means()

  @property
  def state(self):
    """All that training changes."""
    return self.agent.state if self.loop is None else self.loop.state

  def become(self, other, state):
    """Goes on as another seed from a state of it, with the programs that are compiled already."""
    if self.loop is None:
      self.agent.state, self.agent.source = state, other.agent.source
    else:
      self.loop.keys, self.loop.state = other.loop.keys, state

  def save(self, directory):
    bundle = {'agent': self.agent.bundle_and_checkpoint('', 0)}
    if self.loop is not None:
      bundle['loop'] = self.loop.state_dict()
    checkpoints.save(directory, 0, bundle)

  def load(self, directory):
    saved = checkpoints.load(directory, 0)
    assert self.agent.unbundle('', 0, saved['agent'])
    if self.loop is not None:
      self.loop.load_state_dict(saved['loop'])


@pytest.fixture(scope='module')
def make(tmp_path_factory, hopper_replay):
  """Makes a `Trained` of a setting and mix-ins."""
  sizes = tmp_path_factory.mktemp('sizes') / 'sizes.gin'
  sizes.write_text(SIZES)
  return functools.partial(Trained, sizes=sizes, hopper=hopper_replay)


@pytest.fixture(scope='module')
def plain(make):
  """The metrics and parameters of four updates without a mix-in."""
  one = make('offline MinAtar', ())
  return one.train() and one.train(), by_shape(one.agent)


def by_shape(agent):
  """An agent's parameters by path and shape."""
  leaves = jax.tree_util.tree_flatten_with_path(agent.state.params)[0]
  return {(jax.tree_util.keystr(path), leaf.shape): np.asarray(leaf) for path, leaf in leaves}


def resumed(make, setting, mix_ins, directory, anew=True):
  """Trains, saves and trains on; once more from what was saved. Returns agent and metrics.

  Args:
    make: makes a `Trained`.
    setting: see `Trained`.
    mix_ins: likewise.
    directory: holds what is saved.
    anew: a fresh agent resumes; else the same one goes back, which spares tracing all again.
  """
  whole = make(setting, mix_ins)
  fresh = make(setting, mix_ins) if anew else whole
  first = whole.train()
  whole.save(directory / 'kept')
  metrics = whole.train()
  whole.save(directory / 'whole')
  fresh.load(directory / 'kept')
  assert fresh.train() == metrics
  fresh.save(directory / 'fresh')
  ends = [checkpoints.load(directory / name, 0) for name in ('whole', 'fresh')]
  jax.tree.map(np.testing.assert_array_equal, *ends)
  assert all(np.isfinite(value) for value in (*first.values(), *metrics.values()))
  assert whole.agent.updates == 4
  return whole.agent, metrics


@pytest.mark.slow
@pytest.mark.parametrize(
  'mix_in',
  cases(((x,) for x in MIX_INS if x not in LEFT_OUT['offline MinAtar']), REMEDIES.__contains__),
)
def test_each_alone_acts_reports_and_resumes(mix_in, make, plain, tmp_path):
  agent, metrics = resumed(make, 'offline MinAtar', [mix_in], tmp_path)
  # On Pong, without rewards in a batch, products of tanh may have one that underflows.
  assert metrics['Gradient/Norm'] > 0
  own = metrics.keys() - plain[0].keys()
  expected = {OWN_METRICS[mix_in]} if mix_in in OWN_METRICS else set()
  assert (own or mix_in not in REMEDIES) and expected <= own
  before, after = plain[1], by_shape(agent)
  same = before.keys() == after.keys() and all(np.array_equal(before[k], after[k]) for k in before)
  # At the start no target is out of its range.
  assert same == (metrics.get('Targets/Clipped') == 0), 'it changes nothing'


def applicable(setting, group):
  return [name for name in GROUPS[group] if name not in LEFT_OUT[setting]]


CASES = [
  (setting, group)
  for setting in ('online MinAtar', 'Atari', 'MuJoCo')
  for group in GROUPS
  if applicable(setting, group)
  # test_a_run_of_all_remedies_is_resumed_as_if_never_interrupted has it.
  and (setting, group) != ('online MinAtar', 'remedies')
]


@pytest.mark.slow
@pytest.mark.parametrize(
  'setting, group', cases(CASES, lambda *one: one == ('online MinAtar', 'kinds'))
)
def test_a_group_acts_reports_and_resumes(setting, group, make, tmp_path):
  check_together(setting, applicable(setting, group), make, tmp_path)


ALONE = [
  (setting, mix_in)
  for setting in ('online MinAtar', 'Atari', 'MuJoCo')
  for mix_in in MIX_INS
  if mix_in not in LEFT_OUT[setting]
]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize('setting, mix_in', ALONE)
def test_each_alone_acts_reports_and_resumes_in_the_dear_settings(setting, mix_in, make, tmp_path):
  check_together(setting, [mix_in], make, tmp_path)


def check_together(setting, mix_ins, make, tmp_path):
  """Trains and resumes with mix-ins; each remedy reports something."""
  agent, metrics = resumed(make, setting, mix_ins, tmp_path, anew=False)
  assert {OWN_METRICS[name] for name in mix_ins if name in OWN_METRICS} <= metrics.keys()
  for name, remedy in agent.learner.remedies.items():
    assert any(type(remedy).__name__ in metric for metric in metrics), name
  bound = [name for name in mix_ins if name in REMEDIES and name != 'penalties/lp']
  assert len(agent.learner.remedies) == len(bound)


def train_together(seeds):
  """`Trained.train` of several seeds in one vmapped program; returns what each reports."""
  if seeds[0].loop is None:
    reports = [running_means.RunningMeans() for _ in seeds]
    VmappedAgents([one.agent for one in seeds]).train(2, lambda updates: None, reports)
    return [report.means() for report in reports]
  reports = [compiled_online_loop.LoopReport() for _ in seeds]
  VmappedLoops([one.loop for one in seeds]).run(16, lambda steps: None, reports)
  return [report.sums.means() for report in reports]


VMAPPED = [
  (setting, group) for setting in LEFT_OUT for group in GROUPS if applicable(setting, group)
]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.usefixtures('cpu_kernels')
@pytest.mark.parametrize('setting, group', VMAPPED)
def test_vmapped_seeds_of_a_group_are_separate_ones(setting, group, make):
  seeds = [make(setting, applicable(setting, group), seed=seed) for seed in (1, 2)]
  starts = [jax.tree.map(np.array, one.state) for one in seeds]
  reports = train_together(seeds)
  ends = [jax.tree.map(np.array, one.state) for one in seeds]
  for one, start, end, report in zip(seeds, starts, ends, reports, strict=True):
    seeds[0].become(one, jax.tree.map(jnp.array, start))
    assert report == pytest.approx(seeds[0].train(), rel=1e-4, abs=1e-6)
    assert_same_end(end, jax.tree.map(np.array, seeds[0].state), start)
  assert reports[0] != reports[1]


def test_the_groups_hold_every_mix_in():
  for setting, left_out in LEFT_OUT.items():
    held = {name for group in GROUPS for name in applicable(setting, group)}
    assert held == set(MIX_INS) - left_out


RUNS = {
  'offline': (
    'gin_configs/minatar/offline_dqn.gin',
    OFFLINE
    | {
      'OfflineRunner.num_iterations': 2,
      'OfflineRunner.training_steps': 3,
      'OfflineRunner.evaluation_steps': 0,
    },
  ),
  'compiled online': (
    'gin_configs/minatar/online_dqn.gin',
    ONLINE
    | MINATAR_REPLAY
    | {'OnlineRunner.num_iterations': 2, 'OnlineRunner.evaluation_steps': 0},
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', RUNS)
@pytest.mark.exhaustive
def test_a_run_of_all_remedies_is_resumed_as_if_never_interrupted(kind, tmp_path):
  """The command line, killed in its second iteration: one run with nearly every remedy."""
  experiment_file, bindings = RUNS[kind]
  files = [experiment_file, *(f'gin_configs/{name}.gin' for name in GROUPS['remedies'])]
  experiment.parse_gin([str(ROOT / experiment_file)], [])
  bindings = bindings | {'MinAtarCNN.hidden_units': 16}
  for name in GROUPS['remedies']:
    bindings |= sooner(name)
  whole, again = tmp_path / 'whole', tmp_path / 'again'
  assert len(run(whole, *files, **bindings)) == 2
  shutil.copytree(whole, again)
  shutil.rmtree(again / 'logs', ignore_errors=True)
  (checkpoint,) = (again / 'checkpoints').glob('checkpoint_1*')
  checkpoint.unlink()
  assert checkpoints.iterations(again / 'checkpoints') == [0]
  run(again, *files, **bindings)
  assert len(processes.rows(again)) == 2
  assert processes.rows(again) == processes.rows(whole)
  ends = [checkpoints.load_newest(pathlib.Path(one) / 'checkpoints') for one in (whole, again)]
  assert ends[0][0] == 1
  assert processes._comparable(ends[0]) == processes._comparable(ends[1])
