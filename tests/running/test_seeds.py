"""Seeds that run together are the separate runs of those seeds, and are read like them."""

import re

import jax
import numpy as np
import pytest

from implicit_rl.analysis import runs
from implicit_rl.logs import checkpoints, jsonl
from tests.command_line import assert_close, launch, refusal, run, strip_speed

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
HOST = 'gin_configs/gridworld/online_dqn.gin'
PENALTY = 'gin_configs/penalties/lp.gin'
BOTH = {'OfflineRunner.num_seeds': 2, 'OfflineRunner.seeds_as': "'vmap'"}
SETTINGS = {'OfflineRunner.training_steps': 6, 'OfflineRunner.num_iterations': 3}


@pytest.fixture(scope='module')
def separate(tmp_path_factory):
  """Two runs of their own, seeds 5 and 6."""
  folder = tmp_path_factory.mktemp('separate')
  for seed in (5, 6):
    run(folder / f'seed_{seed}', MINATAR, PENALTY, seed=seed, **SETTINGS)
  return folder


def rows(folder, seed):
  return strip_speed(jsonl.read(folder / f'seed_{seed}' / 'metrics.jsonl'))


def learner(folder, seed):
  """What the newest checkpoint holds of the learner."""
  iteration, tree = checkpoints.load_newest(folder / f'seed_{seed}' / 'checkpoints')
  assert iteration == 2
  return tree['agent']['learner']


def assert_equal(one, other):
  """To float tolerance, row by row and parameter by parameter."""
  for seed in (5, 6):
    assert len(rows(one, seed)) == len(rows(other, seed)) == 3
    for row, expected in zip(rows(one, seed), rows(other, seed), strict=True):
      assert_close(row, expected, rel=1e-4, abs=1e-5, nan_ok=True)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      learner(one, seed),
      learner(other, seed),
    )


@pytest.mark.slow
@pytest.mark.parametrize('on_device', [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_one_program_for_all_seeds_trains_what_separate_runs_do(on_device, separate, tmp_path):
  together = BOTH | {'TFDSReplay.on_device': on_device}
  launch(tmp_path, MINATAR, PENALTY, seed=5, **SETTINGS, **together)
  assert_equal(tmp_path, separate)
  # The seeds draw different batches, and start from different parameters.
  assert rows(tmp_path, 5) != rows(tmp_path, 6)
  # The analysis finds two runs of one variant, alone and beside separate ones.
  folders = [tmp_path] if on_device else [tmp_path, separate]
  table = runs.load(folders)
  assert table['variant'].nunique() == 1
  assert sorted(table.groupby('run')['seed'].first()) == sorted([5, 6] * len(folders))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_seeds_go_on_from_where_each_stands(separate, tmp_path):
  """One seed has done two iterations alone; the other catches up, the last one is done together."""
  two = SETTINGS | {'OfflineRunner.num_iterations': 2}
  run(tmp_path / 'seed_5', MINATAR, PENALTY, seed=5, **two)
  launch(tmp_path, MINATAR, PENALTY, seed=5, **SETTINGS, **BOTH)
  assert_equal(tmp_path, separate)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_seeds_as_processes_are_separate_runs(tmp_path):
  """What they print is in their directories."""
  launch(tmp_path, HOST, seed=1, **{'OnlineRunner.num_seeds': 2})
  alone = strip_speed(run(tmp_path / 'alone', HOST, seed=2))
  (row,) = rows(tmp_path, 2)
  assert_close(row, alone[0], rel=1e-4, abs=1e-5)
  assert len(rows(tmp_path, 1)) == 1 and rows(tmp_path, 1)[0] != row
  assert 'iteration 1/1' in (tmp_path / 'seed_1' / 'run.log').read_text()


@pytest.mark.parametrize(
  ('gin_file', 'settings', 'expected'),
  [
    (
      MINATAR,
      {'OfflineRunner.num_seeds': 0},
      r'OfflineRunner\.num_seeds must be .* of at least 1, got 0',
    ),
    (MINATAR, BOTH | {'OfflineRunner.seeds_as': "'vamp'"}, "'processes', got 'vamp'"),
    (
      HOST,
      {
        'OnlineRunner.num_seeds': 2,
        'OnlineRunner.seeds_as': "'vmap'",
        'Agent.source': '@OnlineReplay',
      },
      r"OnlineRunner\.seeds_as = 'vmap' needs a compiled .* is OnlineReplay: .*processes",
    ),
    (MINATAR, {'Runner.num_seeds': 5}, r'Did you mean (Off|On)lineRunner\.num_seeds'),
  ],
)
def test_wrong_settings_of_seeds_end_in_one_line(gin_file, settings, expected, tmp_path):
  message = refusal(tmp_path / 'run', gin_file, **settings)
  assert re.search(expected, message), message
