"""Online seeds in one vmapped program are the separate runs of those seeds, also after a kill."""

import jax
import numpy as np
import pytest

from implicit_rl.logs import checkpoints, jsonl
from tests.command_line import assert_close, launch, run, small, strip_speed
from tests.faults import processes

GRIDWORLD = 'gin_configs/gridworld/online_dqn.gin'
SEEDS = (5, 6, 7)
SETTINGS = {
  'OnlineRunner.num_iterations': 3,
  'OnlineRunner.training_steps': 300,
  'OnlineRunner.updates_per_step': 0.5,
  'OnlineRunner.measure_size': 16,
  'OnlineRunner.evaluation_steps': 1,
  'OnlineRunner.max_steps_per_episode': 5,
  'DeviceReplay.capacity': 400,  # The oldest rows are overwritten.
  'DeviceReplay.num_environments': 2,
  'DeviceReplay.prioritized': True,
  'Agent.min_replay_history': 40,
  'Agent.batch_size': 16,
  'Learner.penalty_weight': 0.001,
  'Learner.target_update_period': 50,
  'MLP.hidden_units': '(16, 16)',
}
TOGETHER = SETTINGS | {
  'OnlineRunner.num_seeds': len(SEEDS),
  'OnlineRunner.seeds_as': "'vmap'",
}


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """The seeds in one program, never interrupted."""
  folder = tmp_path_factory.mktemp('together')
  launch(folder, GRIDWORLD, seed=SEEDS[0], **TOGETHER)
  return folder


def rows(folder, seed):
  return strip_speed(jsonl.read(folder / f'seed_{seed}' / 'metrics.jsonl'))


def newest(folder, seed):
  iteration, tree = checkpoints.load_newest(folder / f'seed_{seed}' / 'checkpoints')
  assert iteration == 2
  return tree


@pytest.mark.exhaustive
def test_one_program_plays_and_learns_what_separate_runs_do(together, tmp_path):
  """What was played is equal, learnt numbers are to rounding; the first and the last seed."""
  for seed in (SEEDS[0], SEEDS[-1]):
    run(tmp_path / f'seed_{seed}', GRIDWORLD, seed=seed, **SETTINGS)
    assert len(rows(together, seed)) == 3
    for row, expected in zip(rows(together, seed), rows(tmp_path, seed), strict=True):
      assert row['updates'] == (row['environment_steps'] - 40) // 2
      assert_close(row, expected, rel=1e-4, abs=1e-5, nan_ok=True)
    one, other = newest(together, seed), newest(tmp_path, seed)
    played = [tree['agent']['source']['rows'] for tree in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, *played)
    jax.tree.map(np.testing.assert_array_equal, one['loop'], other['loop'])
    for part in ('learner', 'source'):
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        one['agent'][part],
        other['agent'][part],
      )
  assert rows(together, SEEDS[0]) != rows(together, SEEDS[1])


@pytest.mark.exhaustive
def test_killed_between_two_checkpoints_of_an_iteration_equals_never(together, tmp_path):
  """The last seed must do an iteration again that the others have ended."""
  process = processes.start(
    tmp_path / 'killed', GRIDWORLD, small(GRIDWORLD) | TOGETHER, seed=SEEDS[0]
  )
  written = tmp_path / 'killed' / f'seed_{SEEDS[-1]}' / 'checkpoints' / 'checkpoint_0.msgpack'
  assert processes.wait_for(written.exists, process), processes.output(tmp_path / 'killed')
  process.kill()
  process.join()
  written.unlink()  # As if the kill had come before.
  launch(tmp_path / 'killed', GRIDWORLD, seed=SEEDS[0], **TOGETHER)
  for seed in SEEDS:
    processes.assert_same_run(tmp_path / 'killed' / f'seed_{seed}', together / f'seed_{seed}')
