"""Settings of every shipped remedy are checked; any two act together, or one line says why not.

A new remedy is found by itself: it is what a file below gin_configs/remedies or penalties binds.
"""

import dataclasses
import itertools
import re

import gin
import jax
import numpy as np
import pytest

from implicit_rl import networks
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.remedies import base
from implicit_rl.running import configurables
from tests.command_line import ROOT, refusal

# By name: what is out of range for all remedies that have such a setting.
WRONG = {
  'weight': -1.0,
  'period': 0,
  'until': 0,
  'threshold': 1.5,
  'heads': 0,
  'scale': 0.0,
  'exponent': 0.0,
  'ratio': -0.1,
  'first_weight': -1.0,
  'warm_up': -1,
  'window': 0,
  'rate': 1.5,
  'decay': 1.0,
  'maturity': -1,
  'hidden_layers': -1,
  'shrink': 1.5,
  'perturb': -0.5,
  'reset_layers': -1,
  'sparsity': 1.0,
  'begin': -1,
  'end': 0,
  'after': 0,
  'covariance': -1.0,
  'variance': -1.0,
}
SWITCHES = {'reset_count', 'reset_target', 'relative', 'all_layers'}


def bind():
  """Binds every shipped remedy in gin; returns their names and classes."""
  configurables.load()
  found = {}
  for path in sorted((ROOT / 'gin_configs').glob('[rp]e[mn]*/*.gin')):
    text = path.read_text()
    if names := re.findall(r'^Remedies\.(\w+) = @(\w+)\(\)', text, re.MULTILINE):
      gin.parse_config(text)
      found |= dict(names)
  return found


@pytest.fixture
def remedies():
  """Every shipped remedy with its shipped settings."""
  return {name: gin.get_configurable(of)() for name, of in bind().items()}


def test_what_is_out_of_range_is_named_in_one_line(remedies):
  for remedy in remedies.values():
    of = type(remedy).__name__
    names = {field.name for field in dataclasses.fields(remedy)} - SWITCHES
    assert names and names <= WRONG.keys(), of
    for name in names:
      for wrong in (WRONG[name], float('nan'), 'much', [1]):
        with pytest.raises(ValueError, match=rf'^{of}\.{name} must be .*, got ') as error:
          dataclasses.replace(remedy, **{name: wrong})
        assert '\n' not in str(error.value).split('  In call to')[0].strip()


@pytest.mark.parametrize(
  'agent, mix_in, bindings, said',
  [
    ('dqn', 'dr3', {'DR3.weight': -1.0}, 'DR3.weight must be a number of at least 0, got -1.0.'),
    ('dqn', 'redo', {'ReDo.threshold': 2}, 'ReDo.threshold must be a number in [0, 1], got 2.'),
    ('dqn', 'beer', {'Agent.gamma': 0.0}, 'BEER needs Agent.gamma above 0, got 0.0.'),
    ('monte_carlo', 'c_chain', {}, 'CChain.ratio is relative to the metric Losses/TD'),
    (
      'dqn',
      'plasticity_injection',
      {'PlasticityInjection.hidden_layers': 3},
      'PlasticityInjection.hidden_layers is 3: There are no 3 hidden layers before the head.',
    ),
  ],
)
def test_what_can_not_work_ends_a_run_before_training(agent, mix_in, bindings, said, tmp_path):
  files = f'gin_configs/minatar/offline_{agent}.gin', f'gin_configs/remedies/{mix_in}.gin'
  assert said in refusal(tmp_path / 'run', *files, **bindings)


def test_any_two_act_together_or_one_line_says_why(remedies):
  """Two that go together are in one of two learners that are traced with all of theirs."""
  injection = {'plasticity_injection': remedies['plasticity_injection']}
  others = {name: one for name, one in remedies.items() if name not in injection}
  beside = {
    name: one for name, one in others.items() if not injection['plasticity_injection'].conflict(one)
  }
  traced = [others, injection | beside]
  for bound in traced:
    for name in remedies:
      gin.parse_config([] if name in bound else [f'Remedies.{name} = None'])
    made = DQNAgent(3, (5,), np.float32, 1, network=networks.MLP, batch_size=4)
    assert made.learner.remedies.keys() == bound.keys()
    jax.eval_shape(made.learner.pure_update, made.state, made.learner.context.batch)
    bind()
  refused = 0
  for pair in itertools.combinations(remedies, 2):
    both = {name: remedies[name] for name in pair}
    if any(both.keys() <= bound.keys() for bound in traced):
      assert base.check_remedies(both) == both
      continue
    said = r'^Remedies\.\w+ cannot be combined with Remedies\.\w+: .*\. Bind one of them'
    with pytest.raises(ValueError, match=said):
      base.check_remedies(both)
    refused += 1
  assert refused == len(others) - len(beside) == 5
