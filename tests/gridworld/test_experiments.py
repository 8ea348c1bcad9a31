"""The experiments: cells of the map, resumable runs, figures and the command line."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from scipy import stats

from implicit_rl.gridworld import __main__ as cli
from implicit_rl.gridworld import experiments, rank_map, runs
from implicit_rl.gridworld.config import FittedQConfig
from implicit_rl.running import experiment
from tests.cases import cases

ROOT = pathlib.Path(__file__).parents[2]
TINY = FittedQConfig(
  iterations=2, steps=4, batch_size=8, hidden_units=(6,), data_size=50, log_every=1
)


def test_every_cell_of_the_map_has_the_same_number_of_gradient_steps():
  cells = experiments.map_cells()
  assert len(cells) >= 200
  for config in cells:
    assert config.steps * config.iterations == experiments.MAP_UPDATES
    assert config.iterations // config.log_every == 20
  for axes in experiments.GROUPS.values():
    for axis in axes:
      assert len(axis) >= 1


def test_every_cell_has_its_controls_in_the_map():
  cells = experiments.map_cells()
  for config, group in cells.items():
    assert experiments.control_of(config, 'supervised') in cells, (config, group)
    assert experiments.control_of(config, 'T=10') in cells, (config, group)
    assert dataclasses.replace(config, penalty_weight=0.0) in cells, (config, group)


def test_controls_differ_by_the_method_alone():
  config = experiments.map_config({'data_size': 500}, {'clip_targets': True})
  twin = experiments.control_of(config, 'supervised')
  assert twin.target == 'optimal' and twin.data_size == 500 and not twin.clip_targets
  matched = experiments.control_of(config, 'T=10')
  assert matched.steps * matched.iterations == config.steps * config.iterations
  assert matched.clip_targets and matched.data_size == 500


def test_outcome_marks_divergence():
  names = {*rank_map._LAST, 'srank', 'reference_srank', 'q_max'}
  rows = {name: np.ones(3, np.float32) for name in names}
  assert rank_map.outcome(TINY, rows)['diverged'] == 0
  assert rank_map.outcome(TINY, {**rows, 'q_max': np.array([1, 1e6, 1])})['diverged'] == 1
  broken = {**rows, 'reference_srank': np.array([5, 4, np.nan]), 'q_mean': np.array([1, 1, np.nan])}
  result = rank_map.outcome(TINY, broken)
  assert result['diverged'] == 1 and np.isnan(result['reference_srank_end'])
  assert result['reference_srank_peak'] == 5


def made_up_table(seeds=5):
  """Every cell of the map with random outcomes; T=200 has 10 less rank than its twin."""
  rng = np.random.default_rng(0)
  names = [*rank_map._LAST, 'reference_srank_start', rank_map.RANK, 'best_return', 'diverged']
  table = {}
  for config in experiments.map_cells():
    results = [dict(zip(names, rng.normal(size=len(names)), strict=True)) for _ in range(seeds)]
    low = config.target == 'bootstrap' and config.steps == 200
    for result in results:
      result['diverged'] = 0.0
      result['reference_srank_start'] = 45.0
      result[rank_map.RANK] += 20.0 if low else 30.0
    table[config] = results
  return table


def test_the_table_of_the_map_survives_its_file(tmp_path):
  table = made_up_table()
  some = next(iter(table))
  table[some][2][rank_map.RANK] = np.nan
  rank_map.write_csv(tmp_path / 'map.csv', table, range(5))
  again = rank_map.read_csv(tmp_path / 'map.csv')
  assert list(again) == list(table)
  for config, results in table.items():
    for before, after in zip(results, again[config], strict=True):
      for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=6e-3, nan_ok=True)
  (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
  with pytest.raises(ValueError, match='not a table of the map'):
    rank_map.read_csv(tmp_path / 'other.csv')


def test_paired_differences_against_scipy():
  table = made_up_table()
  config = experiments.map_config({'data_size': 500})
  twin = experiments.control_of(config, 'supervised')
  gaps = [a['q_mean'] - b['q_mean'] for a, b in zip(table[config], table[twin], strict=True)]
  got = rank_map.paired(table, config, twin, 'q_mean')
  assert got == pytest.approx((np.mean(gaps), stats.sem(gaps)))
  del table[twin]
  assert np.isnan(rank_map.paired(table, config, twin, 'q_mean')).all()


def test_counts_find_the_rank_that_was_put_in():
  table = made_up_table()
  cells = [c for c in table if c.target == 'bootstrap' and not c.penalty_weight]
  of_200 = sum(c.steps == 200 for c in cells)
  lines = rank_map.counts(table)
  twins = next(line for line in lines if line.startswith('srank against the supervised twin, no'))
  lower, higher = (int(part.split()[-1]) for part in twins.split(':')[1].split(',')[:2])
  # Of the others chance puts 6% beyond two errors on each side (Student's t, 4 degrees).
  assert of_200 <= lower <= of_200 + 0.15 * (len(cells) - of_200)
  assert higher <= 0.15 * (len(cells) - of_200)
  joint = next(line for line in lines if line.startswith('T = 50 or 200 with srank lower'))
  assert f': {of_200} of ' in joint and joint.endswith('diverged 0')


def test_digests_tell_configurations_apart():
  assert runs.digest(TINY) == runs.digest(dataclasses.replace(TINY))
  assert runs.digest(TINY) != runs.digest(dataclasses.replace(TINY, steps=8))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_command_line_draws_figures_and_resumes(tmp_path, monkeypatch, capsys):
  figure = experiments.Figure(
    'tiny',
    {'T=4': TINY, 'T=8': dataclasses.replace(TINY, steps=8)},  # They share a compiled program.
    ('srank', 'q_mean', 'eval_return'),
  )
  monkeypatch.setattr(experiments, 'FIGURES', {'figure_2': figure})
  arguments = ['figures', f'--output={tmp_path}', '--seeds=2', '--first_seed=3', '--processes=1']
  assert cli.main(arguments) == 0
  for suffix in ('.png', '.svg', '.csv', '_spectra.csv'):
    assert (tmp_path / f'figure_2{suffix}').stat().st_size > 100
  with (tmp_path / 'figure_2.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 2 * 2 * 3
  assert {line['seed'] for line in lines} == {'3', '4'}
  assert float(lines[0]['q_solution_mean']) > 1 and 'srank' in lines[0]
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'runs').iterdir()}
  assert len(before) == 4
  image = (tmp_path / 'figure_2.svg').read_bytes()
  assert cli.main(arguments) == 0
  assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'runs').iterdir()}
  assert image == (tmp_path / 'figure_2.svg').read_bytes()
  (next(iter(before))).unlink()
  assert cli.main([*arguments, '--draw_only']) == 1
  assert 'without --draw_only' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.exhaustive
def test_command_line_draws_the_map_of_what_is_there(tmp_path, monkeypatch):
  monkeypatch.setattr(experiments, 'BASE', TINY)
  monkeypatch.setattr(experiments, 'MAP_UPDATES', 4000)
  arguments = ['map', f'--output={tmp_path}', '--seeds=2', '--processes=1', '--limit=3']
  assert cli.main(arguments) == 0
  with (tmp_path / 'map.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 6
  assert {line['group'] for line in lines} == {'data_optimizer_clipping'}
  assert (tmp_path / 'map.png').stat().st_size > 1000
  counted = (tmp_path / 'map_counts.txt').read_text()
  assert 'supervised twin' in counted
  copy = tmp_path / 'from_table'
  assert cli.main(['map', f'--output={copy}', f'--table={tmp_path / "map.csv"}']) == 0
  assert (copy / 'map_counts.txt').read_text() == counted
  assert (copy / 'map.svg').read_bytes() == (tmp_path / 'map.svg').read_bytes()
  assert cli.main(['map', f'--output={copy}', f'--table={tmp_path / "gone.csv"}']) == 1


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['figures'], '--output'),
    (['figures', '--output=x', '--only', 'figure_9'], 'figure_9'),
    (['map', '--output=x', '--seeds=0'], '--seeds'),
    (['map', '--output=x', '--limit=0'], '--limit'),
    (['paint', '--output=x'], 'paint'),
  ],
)
def test_bad_arguments_end_in_one_line(arguments, says, capsys):
  with pytest.raises(SystemExit):
    cli.main(arguments)
  assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
  'path',
  # The rest are for the shared runners: test_environment.py.
  cases(
    (
      (path,)
      for path in sorted((ROOT / 'gin_configs' / 'gridworld').glob('*.gin'))
      if path.stem not in ('online_dqn', 'offline_dqn')
    ),
    lambda path: path.stem == 'offline_fqi_lp',
  ),
  ids=lambda path: path.stem,
)
def test_gin_files_run(path, tmp_path):
  experiment.parse_gin(
    [str(path)],
    [
      'FittedQConfig.iterations = 1',
      'FittedQConfig.steps = 2',
      'FittedQConfig.log_every = 1',
      'FittedQConfig.hidden_units = (6,)',
      'FittedQConfig.data_size = 60',
    ],
  )
  experiment.create_runner(str(tmp_path), seed=2).run_experiment()
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [row['updates'] for row in rows] == [0, 2]
  needed = 'iteration updates srank sigma_max sigma_min td_error q_mean eval_return'
  for name in (*needed.split(), 'updates_per_second'):
    assert name in rows[-1]
  assert (tmp_path / 'operative_config.gin').exists()
