"""All shipped remedies at once, with every agent and on every network."""

import dataclasses
import pathlib

import gin
import jax
import numpy as np
import pytest

from implicit_rl import networks
from implicit_rl.agents import (
  c51,
  continuous_cql,
  cql,
  dqn,
  fqe,
  qr_dqn,
  rainbow,
  rem,
  sac,
)
from implicit_rl.remedies import LossTerm, bound_remedies
from implicit_rl.running import configurables
from tests.cases import cases
from tests.command_line import ROOT
from tests.remedies import setting as settings
from tests.same_end import assert_same_end

VALUE_AGENTS = {
  'DQN': dqn.DQNAgent,
  'CQL': cql.CQLAgent,
  'C51': c51.C51Agent,
  'Rainbow': rainbow.RainbowAgent,
  'QR-DQN': qr_dqn.QRDQNAgent,
  'REM': rem.REMAgent,
  'FQE': fqe.FQEAgent,
}
NETWORKS = {
  'NatureCNN': (networks.NatureCNN, (84, 84), np.uint8),
  'SmallCNN': (networks.SmallCNN, (84, 84), np.uint8),
  'MinAtarCNN': (networks.MinAtarCNN, (10, 10, 4), np.uint8),
  'MLP': (networks.MLP, (5,), np.float32),
}
# Kernels differ by network and noise, losses by agent.
PAIRS = [(agent, 'MLP') for agent in VALUE_AGENTS] + [
  (agent, network) for agent in ('DQN', 'Rainbow') for network in NETWORKS if network != 'MLP'
]
SOME_PAIRS = cases(PAIRS, lambda *pair: pair == ('QR-DQN', 'MLP'))
CRITICS = {'SAC': sac.SACAgent, 'CQL': continuous_cql.ContinuousCQLAgent}


INJECTION = ROOT / 'gin_configs/remedies/plasticity_injection.gin'


@pytest.fixture(scope='module')
def files():
  """All but plasticity injection, which excludes some; test_settings.py has it with the others."""
  paths = [p for f in ('remedies', 'penalties') for p in (ROOT / 'gin_configs' / f).glob('*.gin')]
  return [p for p in sorted(paths) if 'Remedies.' in p.read_text() and p != INJECTION]


def bind(files):
  """Binds all remedies; returns their names."""
  configurables.load()
  for path in files:
    gin.parse_config(pathlib.Path(path).read_text())
  gin.parse_config([f'networks.{name}.hidden_units = 8' for name in NETWORKS if name != 'MLP'])
  gin.parse_config(['networks.MLP.hidden_units = (8, 6)', 'ActorCritic.hidden_units = (8, 6)'])


def traced(agent):
  """The metrics of an update, traced on shapes; the state keeps its own."""
  learner = agent.learner
  state, info = jax.eval_shape(learner.pure_update, agent.state, learner.context.batch)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(state) == shapes(agent.state)
  return set(info.metrics)


def of_terms(learner):
  """Metrics that the bound loss terms report."""
  kept = [type(one).__name__ for one in learner.remedies.values()]
  return {f'Losses/{name}' for name in kept if name in TERMS}


TERMS = (
  'BEER CChain DR3 Decorrelation InFeR L2Init NuclearNorm PFO Parseval SpectralRegularization '
  'StableRank'
).split()


@pytest.mark.parametrize('agent, network', SOME_PAIRS)
def test_value_agents_take_all_remedies_at_once(agent, network, files):
  bind(files)
  module, shape, dtype = NETWORKS[network]
  made = VALUE_AGENTS[agent](3, shape, dtype, 2, network=module, batch_size=4)
  assert len(made.learner.remedies) == len(files)
  assert of_terms(made.learner) == {f'Losses/{name}' for name in TERMS}
  assert of_terms(made.learner) <= traced(made)


@pytest.mark.parametrize('agent', CRITICS)
@pytest.mark.parametrize('injected', [False, True])
@pytest.mark.exhaustive
def test_critics_take_all_loss_terms(agent, injected, files):
  bind([INJECTION] if injected else files)
  made = CRITICS[agent](3, (5,), np.float32, 1, network=networks.ActorCritic, batch_size=4)
  assert of_terms(made.learner) <= traced(made)


@pytest.mark.parametrize('agent, network', SOME_PAIRS)
def test_plasticity_is_injected_into_every_value_agent(agent, network):
  bind([INJECTION])
  module, shape, dtype = NETWORKS[network]
  made = VALUE_AGENTS[agent](3, shape, dtype, 2, network=module, batch_size=4)
  assert 'PlasticityInjection/Done' in traced(made)


# By class: when each acts, so that no later reset hides an earlier one.
ACTS = {
  'NetworkReset': {'period': 1, 'until': 1},
  'ShrinkAndPerturb': {'period': 2},
  'HeadReset': {'period': 3},
  'ReDo': {'period': 4, 'threshold': 0.9},
  'ReGraMa': {'period': 4, 'threshold': 0.9},
  'MagnitudePruning': {'period': 3, 'begin': 0, 'end': 4},
  'ContinualBackprop': {'rate': 1.0, 'maturity': 0},
  'CChain': {'warm_up': 3},
}


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind',
  cases([('with a state',), ('terms without',), ('operations without',)], 'with a state'.__eq__),
)
def test_seeds_side_by_side_are_separate_seeds(kind, files):
  bind(files)
  setting = settings.make('dqn')
  init = setting.learner(bound_remedies()).init
  extra = jax.eval_shape(init, setting.params, jax.random.PRNGKey(0)).extra
  assert {'l2_init', 'infer', 'c_chain', 'spectral_regularization'} <= set(extra)
  kind_of = lambda name, one: (
    'with a state'
    if name in extra
    else 'terms without'
    if isinstance(one, LossTerm)
    else 'operations without'
  )
  remedies = {
    name: dataclasses.replace(
      one, **ACTS.get(type(one).__name__, {'period': 3} if hasattr(one, 'period') else {})
    )
    for name, one in bound_remedies().items()
    if kind_of(name, one) == kind
  }
  assert len(remedies) >= 6
  learner = setting.learner(remedies, loop='scan')
  starts = [
    learner.init(setting.context.init(jax.random.PRNGKey(seed)), jax.random.PRNGKey(seed))
    for seed in (1, 2)
  ]
  batches = [[settings.make_batch(10 * seed + k) for k in range(4)] for seed in (1, 2)]
  stack = lambda trees, axis=0: jax.tree.map(lambda *x: np.stack(x, axis), *trees)
  together, info = learner.over_seeds(2).update_many(
    stack(starts), stack([stack(own) for own in batches], axis=1)
  )
  for number, start in enumerate(jax.tree.map(np.array, starts)):
    state, own = learner.update_many(starts[number], stack(batches[number]))
    end = jax.tree.map(lambda x, n=number: np.array(x[n]), together)
    assert_same_end(end, jax.tree.map(np.array, state), start)
    for name, values in own.metrics.items():
      np.testing.assert_allclose(
        info.metrics[name][:, number], values, rtol=1e-4, atol=1e-6, err_msg=name
      )
