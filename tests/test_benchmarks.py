"""The benchmarks run, on little data, and print whole tables; their arithmetic is checked."""

import gzip
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 900


@pytest.fixture(scope='module')
def log(tmp_path_factory):
  """A log as `experiments/atari_frames.py` writes it: a ball that crosses a still picture."""
  rng = np.random.default_rng(0)
  observation = np.repeat(rng.integers(0, 256, (1, 84, 84), np.uint8), STEPS, axis=0)
  for t in range(STEPS):
    observation[t, t % 80 : t % 80 + 4, t % 83] = 255
  end = np.arange(STEPS) % 90 == 89
  path = tmp_path_factory.mktemp('log') / 'ball.npz'
  np.savez(
    path,
    observation=observation,
    action=rng.integers(0, 4, STEPS).astype(np.int32),
    reward=rng.integers(-1, 2, STEPS).astype(np.float32),
    terminal=end,
    episode_end=end,
  )
  return path


def rows_of(script, *arguments):
  """Runs a benchmark and returns the cells of each row of its last table."""
  command = [sys.executable, str(ROOT / 'benchmarks' / script), *map(str, arguments)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  lines = [line for line in done.stdout.splitlines() if line.startswith('|')]
  header, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
  assert all(len(row) == len(header) for row in rows)
  return rows


@pytest.mark.slow
@pytest.mark.exhaustive
def test_buffers_take_turns_and_are_compared(log):
  names = ('ours, raw in RAM', 'ours, compressed in RAM', 'Dopamine, JAX buffer')
  rows = rows_of('data.py', '--replay', log, '--rows', 300, '--rounds', 1, '--only', *names)
  assert [row[0] for row in rows] == list(names)
  assert float(rows[0][4]) == float(rows[1][5]) == 1.0  # Each by itself.
  assert float(rows[0][6].replace(',', '')) > 7056


@pytest.mark.exhaustive
def test_a_store_grows_by_repeating_and_frames_are_compressed(log):
  rows = rows_of('data_scale.py', '--replays', log, log, '--millions', 0.003, 0.01, '--calls', 1)
  counts = [int(row[0].replace(',', '')) for row in rows]
  assert counts == [3600, 10_800]  # Whole repeats of twice 900 steps.
  rows = rows_of('frame_codecs.py', '--replays', log, '--stretches', 1, '--rounds', 1)
  sizes = {row[1]: float(row[2]) for row in rows}
  assert sizes['raw'] == 7056
  assert sizes['zstd, 1 a block, level 9, dictionary of 64'] < 7056 / 20


def test_rounds_are_compared_with_those_of_the_same_turn(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import turns

  results = {
    'ours': [{'cpu': cpu, 'wall': cpu * 1.1, 'peak': 10.0} for cpu in (0.1, 0.2, 0.4)],
    'peer': [
      {'cpu': cpu, 'wall': wall, 'peak': 20.0} for cpu, wall in ((0.3, 0.3), (0.4, 9), (0.4, 1))
    ],
  }
  # 3, 2 and 1 times; the ratio of the medians would be 2 as well, that of the sums 1.57.
  assert turns.ratios(results, 'peer', 'ours') == '2.00 (1.00 to 3.00)'
  assert (
    turns.disturbed(results, 'peer') == '2 of 3' and turns.disturbed(results, 'ours') == '0 of 3'
  )
  ours, peer = turns.table(results, {'peer': 'ours'}, more={'X': {'ours': 'x'}}).splitlines()[2:]
  assert ours == '| ours | 200.0 | 220.0 | 5.0 |  |  | x | 10 | 0 of 3 |'
  assert peer == '| peer | 400.0 | 1000.0 | 2.5 | ours | 2.00 (1.00 to 3.00) |  | 20 | 2 of 3 |'
  slept = turns.in_turn({'half': lambda count: -(-count // 2)}, 1000, 2)['half']
  assert len(slept) == 2 and all(0 <= one['wall'] < 1 for one in slept)


def test_a_remedys_cost_at_its_period_is_that_of_its_mix_in(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import remedies

  files = {path.stem: path for path in (ROOT / 'gin_configs/remedies').glob('*.gin')}
  assert remedies.period_of(files['redo']) == ('ReDo.period', 1000)
  assert remedies.period_of(files['nap']) is None  # At every update.
  assert remedies.period_of(files['dr3']) is None
  monkeypatch.setattr(remedies.penalty, 'updates_of', lambda size, together, bindings, mix_ins: 0)
  took = {remedies.NONE: [1.0, 2.0], remedies.WITH: [1.1, 2.4], remedies.DUE: [11.0, 22.0]}
  results = {name: [{'cpu': 64e-3 * cpu} for cpu in taken] for name, taken in took.items()}
  monkeypatch.setattr(remedies.turns, 'in_turn', lambda *arguments: results)
  row = remedies.measure('MinAtar', files['redo'], 0, 1, 2)
  # (1.1 + 1.2) / 2, and a thousandth of 11 less that.
  assert row[1:] == ['1.5', '1.150 (1.10 to 1.20)', '11.00', '1,000', '1.160', '1.02: no']
  assert remedies.kind_of('remedies/redo', files['redo']) == remedies.OPERATION
  row = remedies.measure('MinAtar', files['nap'], 0, 1, 2)
  assert row[1:] == ['1.5', '1.150 (1.10 to 1.20)']  # No bound.
  for name, period, always in (('nuclear_norm', '4', '11.000'), ('decorrelation', '1', '1.150')):
    row = remedies.measure('MinAtar', ROOT / f'gin_configs/penalties/{name}.gin', 0, 1, 2)
    assert row[2:] == ['1.150 (1.10 to 1.20)', period, always, '1.05: no']
    assert all(
      calls * remedies.TOGETHER[size] % int(period) == 0 for size, calls in remedies.CALLS.items()
    )
  names = [*remedies.OF_FEATURES, *(name for left in remedies.LEFT_OUT.values() for name in left)]
  assert all((ROOT / f'gin_configs/{name}.gin').exists() for name in names)


def test_an_update_takes_the_operations_that_xla_counts(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import jax
  import learner

  from implicit_rl import networks

  for padding, published in (('SAME', 3.87), ('VALID', 2.18)):
    assert learner.gflop(padding, 32) == pytest.approx(published, abs=0.005)
  network = networks.NatureCNN(num_actions=18, padding='VALID')
  state = jax.ShapeDtypeStruct((1, 4, 84, 84), np.uint8)
  params = jax.eval_shape(network.init, jax.random.PRNGKey(0), state)
  counted = jax.jit(network.apply).lower(params, state).cost_analysis()['flops']
  first = 2 * 20**2 * 32 * 8**2 * 4  # The layer whose input needs no gradient.
  assert counted == pytest.approx((1e9 * learner.gflop('VALID', 1) + first) / 4, rel=0.02)


def test_a_profile_names_what_a_program_spends(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import jax
  import update_profile

  def update(x, y):
    return x @ y

  x = np.ones((200, 300), np.float32)
  text = jax.jit(update).lower(x, x.T).compile().as_text()
  found = update_profile.named(text)
  assert ('f32[200,200]', 'dot_general') in found.values()
  taken = {'one': 3.0, 'two': 6.0, 'three': 0.5, 'four': 0.5}
  lines = update_profile.table(taken, {'one': ('f32[2]', 'dot')}, 2).splitlines()[2:]
  assert lines[0] == '| 6.00 | 60% |  | two |' and lines[1] == '| 3.00 | 30% | f32[2] | dot |'
  assert lines[2] == '| 1.00 | 10% | | 2 others |'


def test_a_profile_counts_what_is_in_a_loop_once_and_operations_at_their_median(
  monkeypatch, tmp_path
):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import update_profile

  def event(name, ts, dur, tid=1, module='jit_update'):
    return {
      'ph': 'X',
      'name': name,
      'ts': ts,
      'dur': dur,
      'tid': tid,
      'args': {'hlo_module': module},
    }

  events = []
  for start, slow in ((0, 0), (10_000, 0), (20_000, 4_000)):  # Three updates, in microseconds.
    events += [event('loop', start, 1000), event('inner', start, 300)]
    events += [event('inner', start + 500, 300), event('after', start + 1000, 200 + slow)]
    events += [event('beside', start, 5000, tid=2), event('other', start, 9, module='jit_x')]
  folder = tmp_path / 'plugins' / 'profile' / 'now'
  folder.mkdir(parents=True)
  with gzip.open(folder / 'x.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': [{'ph': 'M'}, *events[::-1]]}, file)
  taken = update_profile.traced(str(tmp_path))
  assert taken == pytest.approx({'loop': 1.2, 'inner': 1.8, 'after': 0.6, 'beside': 15})


@pytest.mark.slow
@pytest.mark.exhaustive
def test_diagnostics_are_timed_and_compared_with_their_bounds(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import diagnostics

  rows = rows_of('diagnostics.py', '--rounds', 1, '--sizes', 'MinAtar', '--cheap')
  names = ['`dormancy`', '`held_out`', '`norms`', '`values`']
  assert [row[0] for row in rows] == [diagnostics.FIRST, *names]
  assert all(float(row[3]) >= 0 and row[1] == 'yes' for row in rows)
  taken = {
    'one': diagnostics.Taken(1, True, 0.5, 12.0),
    'two': diagnostics.Taken(4, False, 40.0, float('nan')),
  }
  lines = diagnostics.table(0.001, taken).splitlines()  # An iteration of 62.5 s.
  assert lines[2:4] == [
    '| `one` | yes | 1 | 0.500 | 0.80% | 12 |',
    '| `two` |  | 4 | 40.000 | 16.00% |  |',
  ]
  assert lines[-2:] == [
    'Together by default: 0.80%, within the bound of 1%.',
    'Together all.gin: 16.80%, ABOVE the bound of 10%.',
  ]
