"""The leaderboard's runs: resumed after a kill, open to methods from outside, kept as rows."""

import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from implicit_rl.leaderboard import __main__ as command
from implicit_rl.leaderboard import rows, strengths
from implicit_rl.leaderboard import spec as leaderboard_spec
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs
from implicit_rl.sweep import jobs
from tests.command_line import ROOT

SHIPPED = ROOT / 'sweeps' / 'leaderboard.yaml'
BREAKOUT = {
  'gin_files': ['gin_configs/minatar/offline_dqn.gin'],
  'bindings': [
    'OfflineRunner.num_iterations = 2',
    'OfflineRunner.training_steps = 4',
    'OfflineRunner.evaluation_steps = 1',
    'OfflineRunner.max_steps_per_episode = 5',
    'OfflineRunner.measure_size = 16',
    'MinAtarCNN.hidden_units = 16',
    'Agent.batch_size = 4',
  ],
  'returns': [0, 10],
}
GRIDWORLD = {
  'gin_files': ['gin_configs/gridworld/offline_fqi.gin'],
  'bindings': ['FittedQConfig.iterations = 10', 'FittedQConfig.steps = 2'],
  'returns': [0, 5],
  'vmap': False,
}
SMALL = {
  'seeds': 2,
  'regimes': {'breakout': BREAKOUT, 'gridworld': GRIDWORLD},
  'methods': {
    'none': {},
    'l2_init': {
      'kind': 'loss term',
      'gin_files': ['gin_configs/remedies/l2_init.gin'],
      'strength': 'L2Init.weight',
      'values': [0.001, 0.01, 0.1],
    },
    'layer_norm': {'gin_files': ['gin_configs/normalisation/layer_norm.gin']},
    'both': {'kind': 'pair', 'together': ['layer_norm', 'l2_init']},
  },
  'tuning': {'regime': {'asterix': BREAKOUT}, 'seeds': [100, 101]},
}
PATH = pathlib.Path('sweeps/mine.yaml')


def small(**otherwise):
  return leaderboard_spec.parse({**SMALL, **otherwise}, PATH)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


# --- the file -------------------------------------------------------------------------------------


def test_cells_are_methods_in_regimes_with_the_chosen_strengths():
  cells = leaderboard_spec.cells(small(), {'l2_init': 0.01})
  assert [cell.planned.name for cell in cells] == [
    'breakout/none',
    'gridworld/none/seed_0',
    'gridworld/none/seed_1',
    'breakout/l2_init=0.01',
    'gridworld/l2_init=0.01/seed_0',
    'gridworld/l2_init=0.01/seed_1',
    'breakout/layer_norm',
    'gridworld/layer_norm/seed_0',
    'gridworld/layer_norm/seed_1',
    'breakout/both=0.01',
    'gridworld/both=0.01/seed_0',
    'gridworld/both=0.01/seed_1',
  ]
  both = cells[9].planned
  assert [pathlib.Path(path).stem for path in both.gin_files] == [
    'offline_dqn',
    'layer_norm',
    'l2_init',
  ]
  assert both.bindings[-3:] == (
    'L2Init.weight = 0.01',
    'OfflineRunner.num_seeds = 2',
    "OfflineRunner.seeds_as = 'vmap'",
  )
  assert cells[0].seeds == (0, 1) and cells[2].seeds == (1,) and cells[2].planned.seed == 1


def test_a_method_waits_until_its_strength_is_chosen():
  names = [cell.remedy for cell in leaderboard_spec.cells(small(), {})]
  assert sorted(set(names)) == ['layer_norm', 'none']
  untuned = leaderboard_spec.cells(
    small(tuning={}), strengths.choose(rows.read(PATH), small(tuning={}))
  )
  assert {cell.setting for cell in untuned if cell.remedy == 'both'} == {'0.001'}


def test_each_strength_has_the_same_budget_elsewhere():
  cells = leaderboard_spec.tuning_cells(small())
  assert [(cell.regime, cell.setting, cell.seeds) for cell in cells] == [
    ('asterix', '0.001', (100, 101)),
    ('asterix', '0.01', (100, 101)),
    ('asterix', '0.1', (100, 101)),
  ]


@pytest.mark.parametrize(
  ('otherwise', 'expected'),
  [
    ({'method': {}}, r'mine\.yaml: method is not a key of a leaderboard; did you mean methods\?'),
    ({'methods': {'lp': {}}}, r'methods needs `none: \{\}`'),
    ({'regimes': {}}, 'regimes is empty'),
    ({'regimes': {'a': {'gin_files': BREAKOUT['gin_files']}}}, r'a\.returns is missing'),
    ({'regimes': {'a': {**BREAKOUT, 'returns': [1, 0]}}}, r'a\.returns must be \[low, high\]'),
    ({'regimes': {'a': {'returns': [0, 1]}}}, r'regimes\.a\.gin_files is empty'),
    ({'regimes': {'a': {**BREAKOUT, 'vmap': 1}}}, r'a\.vmap must be true or false, got 1'),
    ({'seeds': [0, 2]}, r'seeds must be consecutive seeds'),
    ({'methods': {'none': {}, 'a': {'strength': 'A.b'}}}, r'a needs both `strength` and `values`'),
    (
      {'methods': {'none': {}, 'a': {'together': ['b']}}},
      r"together names 'b', not a single",
    ),
    ({'methods': {'none': {}, 'a': {'gin_file': []}}}, r'methods\.a\.gin_file is .* gin_files\?'),
    (
      {'methods': {'none': {'excluded': {'a': 'b'}}}},
      r"none\.excluded names 'a', which is not a regime",
    ),
    ({'tuning': {'regime': {'breakout': BREAKOUT}}}, r'tuning\.regime must be one regime'),
    (
      {'tuning': {'regime': {'a': BREAKOUT}, 'seeds': 2}},
      r'tuning\.seeds has a seed that the table',
    ),
  ],
)
def test_what_the_file_should_not_say_is_named(otherwise, expected):
  with pytest.raises(ValueError) as wrong:
    small(**otherwise)
  assert re.search(expected, str(wrong.value)) and '\n' not in str(wrong.value), wrong.value


# --- strengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('returns', 'expected'),
  [
    ({0.001: (1, 3), 0.01: (3, 3), 0.1: (0, 5)}, {'l2_init': 0.01}),
    ({0.001: (1, 3), 0.01: (2, 2), 0.1: (0, 1)}, {'l2_init': 0.001}),  # Equal: the first.
    ({0.001: (1, 1), 0.01: (9, None), 0.1: (2, 2)}, {'l2_init': 0.1}),  # A seed has no return.
    ({0.001: (None, 9), 0.01: (9, None), 0.1: (None, 1)}, {'l2_init': 0.001}),
    ({0.001: (1, 1), 0.01: (2, 2), 0.1: (9,)}, {}),  # Not all have been tried.
    ({}, {}),
  ],
)
def test_the_strength_with_the_best_mean_return_is_chosen(returns, expected):
  table = pd.DataFrame(
    [
      {'regime': 'asterix', 'remedy': 'l2_init', 'setting': f'{value:g}', 'seed': 100 + n, **one}
      for value, found in returns.items()
      for n, one in enumerate({'final_return': r} for r in found)
    ],
    columns=rows.COLUMNS,
  )
  assert strengths.choose(table, small()) == expected


# --- rows -----------------------------------------------------------------------------------------


def finished(output, cell, value):
  """A cell whose runs are done, as the runner leaves them."""
  for seed in cell.seeds:
    path = output / cell.planned.name / f'seed_{seed}'
    path.mkdir(parents=True)
    for n in range(4):
      row = {'iteration': n, 'updates': 10 * n + 10, 'eval_return': value + n, 'srank': 9 - n}
      jsonl.append(path / 'metrics.jsonl', row | {'q_mean': None})
    (path / 'operative_config.gin').write_text('L2Init.weight = 0.001\nMLP.layer_norm = True\n')
    (path / 'run.json').write_text('{"starts": [{"git_revision": "0123456789abcdef+"}]}')
  job = job_of(output, cell)
  jsonl.append(job.base_dir / jobs.STARTS, {'launch': 'a'})
  jsonl.append(job.base_dir / jobs.ENDS, {'cpu_seconds': 8.0, 'kind': None, 'error': None})
  return job


def job_of(output, cell):
  run = cell.planned
  return parallel_runs.Job(output / run.name, run.gin_files, run.bindings, run.seed, 8)


def test_a_row_is_what_the_run_logged_and_is_never_there_twice(tmp_path):
  spec = small(regimes={'breakout': BREAKOUT})
  cells = leaderboard_spec.cells(spec, {'l2_init': 0.001})
  book = rows.Book(tmp_path, rows.ROWS, cells)
  for cell in (cells[1], cells[0], cells[1]):
    path = tmp_path / f'{time.monotonic_ns()}'
    book.add(spec, cell, finished(path, cell, 1.5 if cell is cells[1] else 0))
  table = rows.read(tmp_path / rows.ROWS)
  assert list(zip(table['remedy'], table['setting'], table['seed'], strict=True)) == [
    ('none', '', 0),
    ('none', '', 1),
    ('l2_init', '0.001', 0),
    ('l2_init', '0.001', 1),
  ]
  last = table.iloc[3]
  assert (last['updates'], last['srank'], last['first_srank']) == (40, 6, 9)
  assert (last['final_return'], last['best_return']) == (1.5 + 2, 1.5 + 3)
  assert last['cpu_seconds'] == 4.0 and last['commit'] == '0123456+'
  assert pd.isna(last['q_mean']) and pd.isna(last['pca_rank'])

  # Another strength takes the place of the first one's rows; a stranger's rows stay.
  (other,) = leaderboard_spec.cells(spec, {'l2_init': 0.01})[1:2]
  mine = rows.Book(tmp_path, rows.ROWS, [other])
  mine.add(spec, other, finished(tmp_path / 'other', other, 5))
  table = rows.read(tmp_path / rows.ROWS)
  assert list(table['setting']) == ['0.01', '0.01', '', '']


def test_a_cell_that_cannot_exist_is_excluded_until_it_can(tmp_path):
  spec = small(regimes={'breakout': BREAKOUT})
  cells = leaderboard_spec.cells(spec, {'l2_init': 0.001})
  book = rows.Book(tmp_path, rows.ROWS, cells)
  refused, crashed = job_of(tmp_path, cells[1]), job_of(tmp_path, cells[2])
  for job, kind in ((refused, 'ValueError'), (crashed, 'KeyError')):
    job.base_dir.mkdir(parents=True)
    jsonl.append(job.base_dir / jobs.ENDS, {'cpu_seconds': 1, 'kind': kind, 'error': 'No, thanks.'})
  for cell, job in ((cells[1], refused), (cells[2], crashed)):
    book.add(spec, cell, job)
  excluded = rows.read(tmp_path / rows.EXCLUDED)
  assert excluded.to_numpy().tolist() == [['breakout', 'l2_init', 'No, thanks.']]
  assert not (tmp_path / rows.ROWS).exists()

  book.add(spec, cells[1], finished(tmp_path / 'again', cells[1], 1))
  assert len(rows.read(tmp_path / rows.EXCLUDED)) == 0
  assert len(rows.read(tmp_path / rows.ROWS)) == 2


def test_a_method_that_the_run_never_reads_makes_no_row(tmp_path):
  spec = small(regimes={'breakout': BREAKOUT})
  cell = leaderboard_spec.cells(spec, {})[1]
  job = finished(tmp_path, cell, 1)
  for config in job.base_dir.rglob('operative_config.gin'):
    config.write_text('MLP.hidden_units = (8, 8)\n')
  rows.Book(tmp_path, rows.ROWS, [cell]).add(spec, cell, job)
  (why,) = rows.read(tmp_path / rows.EXCLUDED)['why']
  assert why.startswith('The run reads nothing that layer_norm binds, such as ')
  assert not (tmp_path / rows.ROWS).exists()


# --- runs -----------------------------------------------------------------------------------------

MY_REMEDY = '''
import dataclasses
import gin
import jax
import jax.numpy as jnp
from implicit_rl.remedies import LossTerm

@gin.configurable
@dataclasses.dataclass(frozen=True)
class SmallHead(LossTerm):
  """Keeps all values small."""
  weight: float = 1.0

  def term(self, context, params, target_params, batch, aux, key, extra):
    return jnp.mean(jnp.square(aux.outputs.q_values))
'''


def start(path, output):
  arguments = [f'--spec={path}', f'--output={output}', f'--results={output}', '--processes=1']
  return subprocess.Popen(
    [sys.executable, '-m', 'implicit_rl.leaderboard', *arguments],
    env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{path.parent}'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_readers_method_joins_with_a_line_and_a_kill_loses_nothing(tmp_path):
  """All processes are killed once the first rows are there; the same command does the rest."""
  (tmp_path / 'my_remedy.py').write_text(MY_REMEDY)
  (tmp_path / 'my_remedy.gin').write_text(
    'import my_remedy\nRemedies.mine = @my_remedy.SmallHead()\n'
  )
  assert MY_REMEDY.count('\n') + 2 <= 30
  mine = f'{{gin_files: [{tmp_path / "my_remedy.gin"}]}}'
  said = {'seeds': 2, 'regimes': {'breakout': BREAKOUT}, 'methods': {'none': {}}}
  path = tmp_path / 'spec.yaml'
  path.write_text(yaml.safe_dump(said, sort_keys=False) + f'  mine: {mine}\n')

  process = start(path, tmp_path)
  while process.poll() is None and len(rows.read(tmp_path / rows.ROWS)) < 2:
    time.sleep(0.05)
  before = (tmp_path / rows.ROWS).read_text()
  os.killpg(process.pid, signal.SIGKILL)
  told, _ = process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL, told

  again = start(path, tmp_path)
  told, _ = again.communicate(timeout=300)
  assert again.returncode == 0, told
  text = (tmp_path / rows.ROWS).read_text()
  assert text.startswith(before)
  table = rows.read(tmp_path / rows.ROWS)
  assert list(zip(table['remedy'], table['seed'], strict=True)) == [
    ('none', 0),
    ('none', 1),
    ('mine', 0),
    ('mine', 1),
  ]
  for row in table.to_dict('records'):
    log = tmp_path / 'runs' / 'breakout' / row['remedy'] / f'seed_{row["seed"]}' / 'metrics.jsonl'
    logged = jsonl.read(log)
    assert [one['iteration'] for one in logged] == [0, 1]
    assert row['srank'] == logged[-1]['srank']
    assert row['q_mean'] == pytest.approx(logged[-1]['q_mean'], rel=1e-6)
    assert ('Losses/SmallHead' in logged[-1]) == (row['remedy'] == 'mine')
  starts = jsonl.read(tmp_path / 'runs' / 'breakout' / 'none' / jobs.STARTS)
  assert len(starts) == 1  # It was not done again.


# --- what is shipped ------------------------------------------------------------------------------


def test_the_shipped_table_has_every_mix_in_and_gin_takes_each_method(tmp_path):
  spec = leaderboard_spec.read(SHIPPED)
  single = {name: one for name, one in spec.methods.items() if not one.together}
  named = {path for one in single.values() for path in one.gin_files}
  folders = ('remedies', 'penalties', 'normalisation', 'networks', 'losses', 'optimizers')
  shipped = {
    str(path.relative_to(ROOT))
    for folder in folders
    for path in (ROOT / 'gin_configs' / folder).glob('*.gin')
  }
  of_images = {f'gin_configs/networks/{name}.gin' for name in ('nature_valid', 'small', 'soft_moe')}
  assert shipped - of_images <= named
  kinds = collections.Counter(one.kind for one in spec.methods.values())
  assert kinds['pair'] >= 3 and {'loss term', 'operation', 'network', 'loss', 'optimiser'} <= set(
    kinds
  )
  weights = [one for one in single.values() if 'gin_configs/penalties/lp.gin' in one.gin_files]
  assert len(weights) == 3
  assert len(spec.regimes) >= 6 and len(spec.seeds) == 5
  assert len({len(one.values) for one in single.values() if one.strength}) == 1  # One budget.

  first, tuned = next(iter(spec.regimes)), leaderboard_spec.tuning_cells(spec)
  defaults = {name: one.values[0] for name, one in single.items() if one.strength}
  planned = [
    cell.planned
    for cell in [*leaderboard_spec.cells(spec, defaults), *tuned[:1]]
    if cell.regime == first or cell.remedy == 'none'
  ]
  _, lengths = jobs.make(spec, planned, tmp_path)
  assert all(length.iterations > 1 for length in lengths)


def test_a_slurm_array_has_an_element_for_each_cell(tmp_path, capsys):
  path = tmp_path / 'spec.yaml'
  path.write_text(yaml.safe_dump({**SMALL, 'slurm': {'partition': 'cpu'}}))
  arguments = [f'--spec={path}', f'--output={tmp_path}', f'--results={tmp_path}', '--tune']
  assert command.main([*arguments, '--print_slurm']) == 0
  script = capsys.readouterr().out
  for line in ('#SBATCH --array=0-2%3', '#SBATCH --partition=cpu', '-m implicit_rl.leaderboard'):
    assert line in script
  assert '--tune --index="$SLURM_ARRAY_TASK_ID"' in script


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--spec=absent.yaml'], r'--spec: absent\.yaml: no such file'),
    (['--processes=0'], r'--processes must be at least 1, got 0'),
    (['--tune', '--index=100000'], r'--index must lie in \[0, \d+\), got 100000'),
  ],
)
def test_wrong_input_is_one_line(arguments, expected, tmp_path, capsys):
  assert command.main([f'--results={tmp_path}', f'--output={tmp_path}', *arguments]) == 1
  said = capsys.readouterr().err
  assert re.search(expected, said) and said.count('\n') == 1, said
