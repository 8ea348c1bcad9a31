"""Mix-ins of losses with CQL, of all kinds together, and what is refused in one line."""

import functools

import gin
import jax
import numpy as np
import pytest

from implicit_rl.data.sources import tfds_replay
from implicit_rl.logs import jsonl
from implicit_rl.running import experiment
from tests.command_line import ROOT, refusal, run

SMALL = ['Agent.batch_size = 4']
OWN_METRICS = {
  'losses/hl_gauss.gin': 'Targets/BeyondBins',
  'losses/munchausen.gin': 'Munchausen/Bonus',
  'losses/target_clipping_rewards.gin': 'Targets/Clipped',
  'losses/target_clipping_returns.gin': 'Targets/Clipped',
}


@functools.cache
def replay():
  """MinAtar's embedded replay, read once."""
  return tfds_replay.TFDSReplay(
    dataset='minatar_checkpoints_ordered',
    game='Breakout',
    run=1,
    observation_shape=(10, 10, 4),
    observation_dtype=np.uint8,
    stack_size=1,
    update_horizon=1,
    gamma=0.99,
    seed=0,
    return_to_go=True,
  )


def make(agent, *mix_ins):
  """The agent of gin_configs/minatar/offline_AGENT.gin with mix-ins, on the embedded replay."""
  files = [f'gin_configs/minatar/offline_{agent}.gin']
  files += [f'gin_configs/{mix_in}' for mix_in in mix_ins]
  experiment.parse_gin([str(ROOT / file) for file in files], SMALL)
  made = gin.query_parameter('Experiment.agent').configurable.wrapper
  # The replay as it is; what an agent tells its source is the same for all of them.
  return made(3, (10, 10, 4), np.uint8, 1, lambda return_to_go=False, **told: replay())


@pytest.fixture(scope='module')
def plain():
  """The parameters of CQL without a mix-in after two updates."""
  made = make('cql')
  made.train(2)
  return jax.tree.map(np.array, made.state.params)


@pytest.mark.parametrize('mix_in', OWN_METRICS)
def test_cql_takes_a_mix_in_of_dqns_loss(mix_in, plain):
  """test_every_mix_in.py has all of them with DQN."""
  made = make('cql', mix_in)
  metrics = made.train(2)
  assert all(np.isfinite(value) for value in metrics.values())
  assert OWN_METRICS[mix_in] in metrics and metrics['Gradient/Norm'] > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made.state.params))
  shapes = lambda tree: jax.tree.map(np.shape, tree)
  same = shapes(made.state.params) == shapes(plain) and all(
    np.array_equal(*pair)
    for pair in zip(jax.tree.leaves(made.state.params), jax.tree.leaves(plain), strict=True)
  )
  # At the start no target is out of its range.
  assert same == (metrics.get('Targets/Clipped') == 0)


@pytest.mark.parametrize(
  ('mix_in', 'agent', 'message'),
  [
    ('losses/hl_gauss.gin', 'c51', 'Agent.value_head must be None for C51Agent'),
    ('losses/hl_gauss.gin', 'rem', 'Agent.value_head must be None for REMAgent'),
    ('losses/hl_gauss.gin', 'behaviour_cloning', 'Agent.value_head must be None for Behaviour'),
    ('losses/munchausen.gin', 'rainbow', 'Agent.munchausen must be None for RainbowAgent'),
    ('losses/munchausen.gin', 'fqe', 'Agent.munchausen must be None for FQEAgent'),
    (
      'losses/target_clipping_rewards.gin',
      'monte_carlo',
      'Agent.target_range must be None for Mon',
    ),
  ],
)
def test_a_mix_in_is_refused_where_it_does_not_apply(mix_in, agent, message):
  with pytest.raises(ValueError, match=message):
    make(agent, mix_in)


def test_a_refusal_is_one_line_of_the_command(tmp_path):
  hl_gauss, returns = (
    f'gin_configs/losses/{n}.gin' for n in ('hl_gauss', 'target_clipping_returns')
  )
  message = refusal(tmp_path, 'gin_configs/mujoco/online_sac.gin', hl_gauss)
  assert (
    'Agent.value_head must be None for SACAgent, whose loss does not use it, got HLGauss' in message
  )
  message = refusal(tmp_path, 'gin_configs/minatar/online_dqn.gin', returns)
  assert "DeviceReplay can't compute the returns to the episodes' ends" in message


ALL_AT_ONCE = [
  'networks/hadamard.gin',
  'normalisation/rms_norm.gin',
  'normalisation/feature_norm.gin',
  'normalisation/spectral_norm.gin',
  'losses/target_clipping_rewards.gin',
  'optimizers/weight_decay.gin',
]


@pytest.mark.slow
@pytest.mark.parametrize('gin_file', ['minatar/online_dqn.gin', 'mujoco/online_sac.gin'])
@pytest.mark.exhaustive
def test_mix_ins_combine_in_a_run(gin_file, tmp_path):
  mix_ins = [*ALL_AT_ONCE, 'losses/hl_gauss.gin', 'losses/munchausen.gin']
  if 'mujoco' in gin_file:
    mix_ins = ALL_AT_ONCE
  (row,) = run(tmp_path, *(f'gin_configs/{name}' for name in (gin_file, *mix_ins)))
  assert {'Targets/Clipped', 'Losses/TD'} <= set(row) and np.isfinite(row['Losses/TD'])
  # Features of length 1: the squares of the singular values sum up to the batch's size.
  (spectrum,) = jsonl.read(tmp_path / 'spectra.jsonl')
  np.testing.assert_allclose(np.sum(np.square(spectrum['singular_values'])), 16, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_simbas_policy_and_critics_train(tmp_path):
  files = [f'gin_configs/{name}.gin' for name in ('mujoco/online_sac', 'networks/simba')]
  sizes = {'SimBaActorCritic.actor_width': 8, 'SimBaActorCritic.critic_width': 8}
  network = {'Agent.network': '@simba.SimBaActorCritic', 'ActorCritic.hidden_units': (256, 256)}
  (row,) = run(tmp_path, *files, **network, **sizes)
  assert np.isfinite(row['Losses/TD']) and row['updates'] > 0
