"""TensorBoard's files, against those that Dopamine's own collector has TensorFlow write."""

import numpy as np
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from implicit_rl.logs import collectors
from implicit_rl.running import experiment  # noqa: F401

# isort: split
from dopamine.metrics import collector_dispatcher, statistics_instance, tensorboard_collector


def scalars(path):
  """{tag: [(step, value)]}, as TensorBoard reads them."""
  read = event_accumulator.EventAccumulator(str(path))
  read.Reload()
  return {
    tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in read.Tensors(tag)]
    for tag in read.Tags()['tensors']
  }


def test_tensorboard_reads_what_it_reads_of_dopamines(tmp_path):
  assert collector_dispatcher.AVAILABLE_COLLECTORS['tensorboard'] is collectors.TensorboardCollector
  rows = [
    [statistics_instance.StatisticsInstance(tag, value, step) for tag, value in row.items()]
    for step, row in enumerate([{'srank': 12.0, 'Losses/TD': 0.1}, {'srank': 1e-30, 'q': np.inf}])
  ]
  made = [
    kind(str(tmp_path / name))
    for name, kind in (
      ('ours', collectors.TensorboardCollector),
      ('dopamines', tensorboard_collector.TensorboardCollector),
    )
  ]
  for one in made:
    for row in rows:
      one.write(row)
      one.flush()
  ours, dopamines = (scalars(tmp_path / n / 'metrics/tensorboard') for n in ('ours', 'dopamines'))
  assert ours == dopamines
  assert ours['srank'] == [(0, 12.0), (1, np.float32(1e-30))] and ours['q'] == [(1, np.inf)]
