"""Weights & Biases gets every row, with the real package in its offline mode."""

import json
import pathlib
import struct
import time

import pytest
from wandb.proto import wandb_internal_pb2

from implicit_rl.logs import jsonl, wandb_collector
from implicit_rl.running import experiment

# isort: split
from dopamine.metrics import statistics_instance

ROOT = pathlib.Path(__file__).parent.parent.parent


def records(path):
  """The records of an offline run's file, which is LevelDB's log format after a header."""
  data, position, parts = path.read_bytes(), 7, []
  assert data[:4] == b':W&B'
  while position < len(data):
    left = 32768 - position % 32768  # A record's header never straddles two blocks.
    if left < 7:
      position += left
      continue
    _, length, kind = struct.unpack('<IHB', data[position : position + 7])
    parts.append(data[position + 7 : position + 7 + length])
    position += 7 + length
    if kind in (1, 4):  # Whole, or the last part.
      record = wandb_internal_pb2.Record()
      record.ParseFromString(b''.join(parts))
      parts = []
      yield record


def history(base_dir):
  """The rows of the base_dir's offline runs, in the order they were started: step to values."""
  paths = sorted(base_dir.rglob('*.wandb'), key=lambda path: path.stat().st_mtime)
  for path in paths:
    for record in records(path):
      if record.HasField('history'):
        row = {
          item.key or item.nested_key[0]: json.loads(item.value_json)
          for item in record.history.item
        }
        yield record.history.step.num, row


def written(base_dir, count):
  """The `count` rows, once wandb's process, which writes after the run's end, has written them."""
  until = time.monotonic() + 60
  while len(rows := list(history(base_dir))) < count and time.monotonic() < until:
    time.sleep(0.1)
  return rows


@pytest.mark.filterwarnings('ignore::DeprecationWarning:wandb.*')
@pytest.mark.exhaustive
def test_one_gin_line_sends_every_row(tmp_path):
  experiment.parse_gin(
    [str(ROOT / 'gin_configs/minatar/offline_dqn.gin')],
    [
      "collector_dispatcher.CollectorDispatcher.collectors = ('tensorboard', 'wandb')",
      "WandbCollector.mode = 'offline'",
      'OfflineRunner.num_iterations = 2',
      'OfflineRunner.training_steps = 2',
      'OfflineRunner.evaluation_steps = 0',
      'OfflineRunner.measure_size = 16',
    ],
  )
  experiment.create_runner(str(tmp_path)).run_experiment()
  logged = jsonl.read(tmp_path / 'metrics.jsonl')
  rows = written(tmp_path, 2)
  assert [step for step, _ in rows] == [0, 1]
  for (_, row), expected in zip(rows, logged, strict=True):
    for name in ('updates', 'srank', 'sigma_max', 'td_error'):
      assert row[name] == pytest.approx(expected[name], rel=1e-6)

  # A later start of the same --base_dir goes on in the same run over there.
  again = wandb_collector.WandbCollector(str(tmp_path))
  again.write([statistics_instance.StatisticsInstance('srank', 7.0, 2)])
  again.close()
  step, row = written(tmp_path, 3)[-1]
  assert (step, row['srank']) == (2, 7.0)
  ids = {path.stem.removeprefix('run-') for path in tmp_path.rglob('*.wandb')}
  assert ids == {(tmp_path / 'metrics/wandb/run_id').read_text()}
