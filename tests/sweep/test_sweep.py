"""Sweeps run on Ray, here and on a cluster of two nodes, whatever is killed meanwhile."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
import yaml

from implicit_rl.logs import jsonl
from implicit_rl.running import launch, parallel_runs
from implicit_rl.sweep import __main__ as command
from implicit_rl.sweep import jobs, table
from implicit_rl.sweep import spec as sweep_spec
from tests import forks
from tests.command_line import ROOT, strip_speed

SMALL = {
  'gin_files': ['gin_configs/minatar/offline_dqn.gin'],
  'bindings': [
    'OfflineRunner.num_iterations = 4',
    'OfflineRunner.training_steps = 4',
    'OfflineRunner.evaluation_steps = 1',
    'OfflineRunner.max_steps_per_episode = 5',
    'OfflineRunner.measure_size = 16',
    'OfflineRunner.keep_checkpoints = 1',
    'MinAtarCNN.hidden_units = 16',
    'Agent.batch_size = 4',
  ],
  'seeds': 6,
  'overlays': {'penalty': {'none': {}, 'lp': {'gin_files': ['gin_configs/penalties/lp.gin']}}},
  'resources': {'cpus': 1},
  'retries': 10,
  'measured': {'updates_per_second': 1, 'steps_per_second': 0.01, 'megabytes_per_run': 500},
}
ENVIRONMENT = {
  'RAY_worker_niceness': '0',
  'RAY_AUTH_MODE': 'disabled',
}


@pytest.fixture
def spec_file(tmp_path):
  """Writes a sweep's file, of what SMALL says and what is said otherwise."""

  def write(**otherwise):
    path = tmp_path / 'small.yaml'
    path.write_text(yaml.safe_dump({**SMALL, **otherwise}, sort_keys=False))
    return path

  return write


def start(path, output, *arguments):
  """Starts the command line on its own."""
  command_line = [sys.executable, '-m', 'implicit_rl.sweep', f'--spec={path}', f'--output={output}']
  with open(output.with_suffix('.log'), 'w') as log:
    return subprocess.Popen(
      [*command_line, *arguments], cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=log, stderr=log
    )


def planned_jobs(path, output):
  """The jobs of a sweep of SMALL's length, without asking gin."""
  return [
    parallel_runs.Job(output / run.name, run.gin_files, run.bindings, run.seed, 4)
    for run in sweep_spec.expand(sweep_spec.read(path))
  ]


def rows(job):
  """What a run has logged, but for speeds."""
  return strip_speed(jsonl.read(job.base_dir / 'metrics.jsonl'))


def one_after_the_other(todo):
  """Does runs as the workers of a sweep do, but in this process and without Ray."""
  variables = launch.environment(jax.config.jax_compilation_cache_dir)
  os.environ.update(variables)
  jax.config.update('jax_compilation_cache_dir', variables['JAX_COMPILATION_CACHE_DIR'])
  for job in todo:
    parallel_runs.run(job)


def running(todo):
  """The process of each run that is being done, by the run."""
  found = {}
  for job in todo:
    if jobs.starts(job) and not job.finished:
      pid = jsonl.read(job.base_dir / jobs.STARTS)[-1]['pid']
      if pathlib.Path(f'/proc/{pid}').exists():
        found[job] = pid
  return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(('seeds', 'planned_kills'), [(1, 2), (6, 4)])
def test_workers_that_are_killed_at_random_change_nothing(
  seeds, planned_kills, tmp_path, spec_file, monkeypatch
):
  """The rows are those of the same runs one after the other, untouched; two runs for each seed."""
  monkeypatch.chdir(ROOT)
  path = spec_file(seeds=seeds)
  todo = planned_jobs(path, tmp_path / 'killed')
  assert len(todo) == 2 * seeds
  sweep = start(path, tmp_path / 'killed', '--cpus=2')
  rng = random.Random(0)
  kills = 0
  while kills < planned_kills and sweep.poll() is None:
    least = rng.choice([0, 1, 1, 2])  # rows that the victim has logged
    victims = [(job, pid) for job, pid in running(todo).items() if job.done >= least]
    if victims:
      os.kill(rng.choice(victims)[1], signal.SIGKILL)
      kills += 1
      time.sleep(rng.random())
    time.sleep(0.05)
  assert sweep.wait(timeout=600) == 0, (tmp_path / 'killed.log').read_text()
  assert kills == planned_kills
  assert sum(map(jobs.restarts, todo)) >= kills - 1  # A kill may have come before its run began.

  reference = planned_jobs(path, tmp_path / 'untouched')
  process = forks.context.Process(target=one_after_the_other, args=(reference,), daemon=True)
  process.start()
  process.join(600)
  assert process.exitcode == 0
  for one, other in zip(todo, reference, strict=True):
    assert len(rows(one)) == 4
    assert rows(one) == rows(other), one.base_dir
  results = (tmp_path / 'killed' / 'results.csv').read_text().splitlines()
  assert len(results) == 1 + len(todo) * 4

  # Finished runs are left alone, and not taken for new ones.
  before = [job.base_dir.joinpath('metrics.jsonl').stat().st_mtime_ns for job in todo]
  arguments = [f'--spec={path}', f'--output={tmp_path / "killed"}']
  assert command.main(arguments) == 1
  assert command.main([*arguments, '--resume']) == 0
  assert before == [job.base_dir.joinpath('metrics.jsonl').stat().st_mtime_ns for job in todo]


def descendants(pid):
  """A process and all below it."""
  found = [pid]
  for children in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    for child in children.read_text().split():
      found += descendants(int(child))
  return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_cluster_that_loses_a_node_finishes_and_names_what_is_wrong(
  tmp_path, spec_file, monkeypatch
):
  """Two nodes of one core; all processes of the second die while it does a run."""
  monkeypatch.chdir(ROOT)
  path = spec_file(
    seeds=2,
    overlays={'data': {'there': {}, 'absent': {'bindings': ['TFDSReplay.game = "Asterix"']}}},
  )
  ray = [str(pathlib.Path(sys.executable).parent / 'ray'), 'start', '--block', '--num-cpus=1']
  ray += ['--object-store-memory=100000000', '--disable-usage-stats']
  port = 20_000 + os.getpid() % 10_000
  nodes = []

  def start_node(*arguments):
    nodes.append(
      subprocess.Popen(
        [*ray, *arguments],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      )
    )

  def kill_node(node):
    for pid in descendants(node.pid):
      try:
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
    node.wait()

  start_node('--head', f'--port={port}', '--include-dashboard=false')
  try:
    start_node(f'--address=127.0.0.1:{port}')
    output = tmp_path / 'sweep'
    todo = planned_jobs(path, output)[:2]
    sweep = start(path, output, f'--address=127.0.0.1:{port}')
    lost = None
    while lost is None and sweep.poll() is None:
      time.sleep(0.05)
      if found := running(todo):  # Before, it would read hundreds of files of /proc for nothing.
        second = set(descendants(nodes[1].pid))
        lost = next((job for job, pid in found.items() if pid in second), None)
    kill_node(nodes.pop())
    assert sweep.wait(timeout=600) == 1
  finally:
    for node in reversed(nodes):
      kill_node(node)
  log = output.with_suffix('.log').read_text()
  assert lost is not None and jobs.starts(lost) == 2, log
  assert all(job.finished for job in todo), log
  assert log.count('Asterix_run_1 does not ship with this package') == 2, log
  assert '2 runs failed' in log


# --- without Ray ----------------------------------------------------------------------------------


def test_the_table_tells_deaths_from_resumes_and_has_the_newest_results(tmp_path, spec_file):
  """Two runs of `none`: one that a worker's death and a person interrupted, one just begun."""
  path = spec_file()
  planned = sweep_spec.expand(sweep_spec.read(path))
  todo = planned_jobs(path, tmp_path)
  for job, launches, values in ((todo[0], 'aabb', (4.0, 8.0)), (todo[1], 'a', (2.0,))):
    job.base_dir.mkdir(parents=True)
    for name in launches:
      jsonl.append(job.base_dir / jobs.STARTS, {'host': 'h', 'pid': 1, 'launch': name})
    for iteration, value in enumerate(values):
      row = {'iteration': iteration, 'eval_return': value, 'srank': 10 * value}
      jsonl.append(job.base_dir / 'metrics.jsonl', row)
  assert [jobs.restarts(job) for job in todo[:3]] == [2, 0, 0]
  first, *_, last = (
    dict(zip(table.COLUMNS, row, strict=True)) for row in table.rows(planned, todo, {})
  )
  assert first['restarts'] == last['restarts'] == '2'
  assert (first['return'], first['srank']) == ('5.00', '50.0')
  assert (last['variant'], last['return'], last['iterations']) == ('all', '–', '3/48')


def test_what_slurm_requeues_is_the_same_launch(monkeypatch):
  assert jobs.new_launch() != jobs.new_launch()
  monkeypatch.setenv('SLURM_JOB_ID', '17_3')
  assert jobs.new_launch() == jobs.new_launch() == '17_3'


@pytest.mark.exhaustive
def test_an_element_of_the_slurm_array_does_its_run(tmp_path, spec_file, monkeypatch, capsys):
  """The script itself is run, as SLURM would with element 7; only `srun` is left out."""
  monkeypatch.chdir(ROOT)
  path = spec_file(slurm={'partition': 'gpu', 'use_srun': False}, resources={'cpus': 3, 'gpus': 1})
  output = tmp_path / 'with space'
  more = '--gin_bindings=OfflineRunner.num_iterations = 1'
  assert command.main([f'--spec={path}', f'--output={output}', more, '--print_slurm']) == 0
  script = capsys.readouterr().out
  for line in ('array=0-11%12', 'cpus-per-task=3', 'gpus-per-node=1', 'partition=gpu', 'requeue'):
    assert f'#SBATCH --{line}' in script
  subprocess.run(
    ['bash'],
    input=script,
    text=True,
    env=os.environ | ENVIRONMENT | {'SLURM_ARRAY_TASK_ID': '7'},
    check=True,
    capture_output=True,
  )
  assert [p.parent for p in output.rglob('metrics.jsonl')] == [output / 'lp' / 'seed_1']


def test_the_cost_is_that_of_the_arithmetic(spec_file, monkeypatch, capsys):
  """Per run 16 updates at 1/s and 4 evaluation steps at 0.01/s, 416 s; half a gigabyte."""
  monkeypatch.chdir(ROOT)
  assert command.main([f'--spec={spec_file()}', '--estimate']) == 0
  printed = capsys.readouterr().out
  assert f'| none | 6 | 96 | {6 * 416 / 3600:.1f} | 3.0 |' in printed
  assert f'| all | 12 | 192 | {12 * 416 / 3600:.1f} | 6.0 |' in printed


@pytest.mark.parametrize(
  ('otherwise', 'arguments', 'expected'),
  [
    ({'bindings': ['Lerner.penalty_weight = 1']}, [], r'small\.yaml: none/seed_0: .*Lerner'),
    ({}, ['--index=12'], r'--index must lie in \[0, 12\) in .*small\.yaml, got 12'),
    ({}, ['--data_dir=absent'], '--data_dir: no such directory: absent'),
    ({}, ['--cpus=0'], '--cpus must be at least 1'),
    ({}, ['--cpus=1', '--address=auto'], 'with --address the cluster reports'),
    ({'slurm': {'partitoin': 'x'}}, ['--print_slurm'], r'slurm\.partitoin is not a parameter'),
    ({'measured': {}}, ['--estimate'], r'small\.yaml: measured\.updates_per_second is missing'),
  ],
)
def test_wrong_input_is_one_line(otherwise, arguments, expected, spec_file, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  path = spec_file(**otherwise)
  output = path.parent / 'sweep'
  assert command.main([f'--spec={path}', f'--output={output}', *arguments]) == 1
  said = capsys.readouterr().err
  assert re.search(expected, said) and said.count('\n') == 1, said


SHIPPED = [
  path for path in (ROOT / 'sweeps').glob('*.yaml') if not path.stem.startswith('leaderboard')
]


@pytest.mark.parametrize('path', sorted(SHIPPED), ids=lambda p: p.stem)
def test_the_shipped_sweeps_are_what_gin_takes(path, monkeypatch, tmp_path):
  """One run of each combination; they all cost something."""
  monkeypatch.chdir(ROOT)
  spec = sweep_spec.read(path)
  planned = sweep_spec.expand(spec._replace(games=spec.games[:1], seeds=spec.seeds[:1]))
  _, lengths = jobs.make(spec, planned, tmp_path)
  assert all(length.iterations > 1 and length.updates > 1000 for length in lengths)
  if path.stem == 'paper_offline_atari':
    assert len(sweep_spec.expand(spec)) == 640
