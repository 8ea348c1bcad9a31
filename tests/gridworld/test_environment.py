"""The gridworld as an environment: its dynamics, and agents that train in it on both loops."""

import jax
import numpy as np
import pytest
from scipy import stats

from implicit_rl import environments
from implicit_rl.data.sources import vector_replay
from implicit_rl.gridworld import mdp, oracle
from implicit_rl.gridworld.environment import GridworldEnvironment
from tests.command_line import run

ONLINE = 'gin_configs/gridworld/online_dqn.gin'
SHORT = {
  'OnlineRunner.num_iterations': 1,
  'OnlineRunner.training_steps': 300,
  'OnlineRunner.evaluation_steps': 50,
  'OnlineRunner.max_steps_per_episode': 50,
  'OnlineRunner.measure_size': 32,
  'OnlineRunner.log_replay': True,
  'DeviceReplay.num_environments': 2,
  'Agent.min_replay_history': 40,
  'MLP.hidden_units': (16, 16),
}


def test_it_conforms_and_can_do_all_but_evaluate():
  able = environments.check(GridworldEnvironment())
  assert able.rules and able.seed and able.state_dict and able.truncated and able.dataset
  assert able.evaluate is None and able.action_shape == ()


def test_steps_follow_the_transition_matrix():
  """Counts of next cells against the probabilities in float64, by a χ² test; rewards exactly."""
  environment = GridworldEnvironment(world_seed=3, action_noise=0.4)
  world = environment.world
  keys = jax.random.split(jax.random.key(0), 20_000)
  moments, rewards, terminal = jax.vmap(environment.rules.advance, (None, None, 0))(
    environment.rules.start(keys[0]), np.int32(2), keys
  )
  expected = world.transitions[world.start, 2] * len(keys)
  found = np.bincount(moments.cell, minlength=len(expected))
  likely = expected > 0
  assert found[~likely].sum() == 0 and not terminal.any()
  assert stats.chisquare(found[likely], expected[likely]).pvalue > 1e-3
  np.testing.assert_allclose(rewards, world.rewards[world.start, 2], rtol=1e-6)
  np.testing.assert_array_equal(
    moments.observation, world.observations.astype(np.float32)[np.asarray(moments.cell)]
  )


def test_the_mean_return_is_the_exact_one():
  environment = GridworldEnvironment(world_seed=1, seed=7)
  rng = np.random.default_rng(0)
  returns = []
  for _ in range(60):
    environment.reset()
    total = 0.0
    while not environment.truncated:
      _, reward, terminal, _ = environment.step(int(rng.integers(mdp.NUM_ACTIONS)))
      assert not terminal
      total += reward
    returns.append(total)
  exact = oracle.episode_return(environment.world, oracle.uniform_policy(environment.world))
  assert abs(np.mean(returns) - exact) < 4 * np.std(returns) / np.sqrt(len(returns))


def test_an_episode_that_is_saved_goes_on():
  one, other = GridworldEnvironment(seed=1), GridworldEnvironment(seed=2)

  def play(environment, steps):
    return [environment.step(a % 5)[0].tobytes() for a in range(steps)]

  play(one, 20)
  saved = one.state_dict()
  expected = play(one, 29)
  other.load_state_dict(saved)
  assert play(other, 29) == expected and not other.truncated
  other.step(0)
  assert other.truncated
  one.seed(5)
  one.reset()
  assert play(one, 40) == play(GridworldEnvironment(seed=5), 40)


@pytest.mark.parametrize('source', ['DeviceReplay', 'OnlineReplay'])
@pytest.mark.exhaustive
def test_dqn_trains_in_both_loops_and_offline_on_what_it_logged(source, tmp_path):
  settings = SHORT | {'Agent.source': f'@{source}', f'{source}.capacity': 1000}
  (row,) = run(tmp_path / 'online', ONLINE, **settings)
  assert row['environment_steps'] == 300 and row['updates'] == 300 - 40
  assert row['train_episodes'] == 6 and row['eval_episodes'] == 1 and row['eval_return'] >= 0
  folder = tmp_path / 'online' / 'replay' / 'gridworld' / 'Gridworld0_run_1'
  replay = vector_replay.VectorReplay(path=folder, fraction=1.0)
  # On the host what followed each episode is logged too; the compiled loop does not report it.
  assert len(replay) == (294 if source == 'DeviceReplay' else 300)
  world = mdp.make_gridworld(0)
  seen = {tuple(cell): n for n, cell in enumerate(world.observations.astype(np.float32).tolist())}
  (batch,) = replay.in_order(1000)
  cells = [seen[tuple(cell)] for cell in batch.state[:, 0].tolist()]
  following = [seen[tuple(cell)] for cell in batch.next_state[:, 0].tolist()]
  assert (world.transitions[cells, batch.action, following] > 0).all()
  np.testing.assert_allclose(batch.reward, world.rewards[cells, batch.action], rtol=1e-6)
  assert (batch.discount == 1).all()
