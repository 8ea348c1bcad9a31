"""Collectors, which write each iteration's metrics for other programs, as in Dopamine."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Sequence

from implicit_rl.compat import dopamine_compat  # noqa: F401

# isort: split
from dopamine.metrics import collector, collector_dispatcher, statistics_instance


class Collector(collector.Collector):
  """A collector of Dopamine that creates its directory without TensorFlow.

  Args:
    base_dir: directory of the run; `base_dir/metrics/NAME` is the collector's own.
  """

  def __init__(self, base_dir: str):
    super().__init__(None)
    self._base_dir = os.path.join(base_dir, 'metrics', self.get_name())
    os.makedirs(self._base_dir, exist_ok=True)


class TensorboardCollector(Collector):
  """Writes scalars for TensorBoard, as Dopamine's collector of this name, but without TensorFlow.

  TensorFlow takes seconds to import, and TensorBoard can write the same files.

  Args:
    base_dir: directory of the run; each start adds a file to `base_dir/metrics/tensorboard`.
  """

  def __init__(self, base_dir: str):
    super().__init__(base_dir)
    name = f'events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}'
    self._path = os.path.join(self._base_dir, name)

  def get_name(self) -> str:
    """The name of its directory and in the gin line."""
    return 'tensorboard'

  def write(self, statistics: Sequence[statistics_instance.StatisticsInstance]) -> None:
    """Adds each scalar to the file."""
    # Imported late, so that a run's first update does not wait.
    from tensorboard.compat.proto import event_pb2
    from tensorboard.plugins.scalar import summary_v2
    from tensorboard.summary.writer import record_writer

    now = time.time()
    events = [
      event_pb2.Event(wall_time=now, step=s.step, summary=summary_v2.scalar_pb(s.name, s.value))
      for s in statistics
    ]
    if not os.path.exists(self._path):
      events.insert(0, event_pb2.Event(wall_time=now, file_version='brain.Event:2'))
    block = io.BytesIO()
    records = record_writer.RecordWriter(block)
    for event in events:
      records.write(event.SerializeToString())
    with open(self._path, 'ab') as file:
      file.write(block.getvalue())


def register() -> None:
  """Registers our collector as 'tensorboard' with Dopamine's dispatcher."""
  collector_dispatcher.add_collector('tensorboard', TensorboardCollector)
