"""Old names of modules that moved: importing one returns the new module, with a warning.

The table is for gin files and programs of the previous release. The next release removes it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
import types
from collections.abc import Sequence

_PROJECT = __package__.partition('.')[0]
MOVED = {  # Below the package: {old: new}.
  'devices': 'sharding',
  'dopamine_compat': 'compat.dopamine_compat',
  'late_imports': 'compat.lazy_imports',
  'gin_names': 'compat.gin_names',
  'products': 'cpu.matmul',
  'convolutions': 'cpu.conv',
  'memory': 'cpu.allocator',
  'compiled_programs': 'cpu.xla_flags',
  'eigenpairs': 'cpu.eigenpairs',
  'data.dopamine_files': 'data.formats.dopamine_files',
  'data.gzip_arrays': 'data.formats.gzip_arrays',
  'data.tfds_files': 'data.formats.tfds_files',
  'data.tfds_records': 'data.formats.tfds_records',
  'data.tfds_recording': 'data.formats.tfds_recording',
  'data.tfds_writer': 'data.formats.tfds_writer',
  'data.vector_files': 'data.formats.vector_files',
  'data.recordings': 'data.formats.recordings',
  'data.other_recordings': 'data.formats.minari_recordings',
  'data.online_replay': 'data.replay.online_replay',
  'data.prioritized_replay': 'data.replay.prioritized_replay',
  'data.sum_tree': 'data.replay.sum_tree',
  'data.device_replay': 'data.replay.device_replay',
  'data.device_priorities': 'data.replay.device_priorities',
  'data.replay_log': 'data.replay.replay_log',
  'data.dopamine_logs': 'data.sources.dopamine_logs',
  'data.tfds_replay': 'data.sources.tfds_replay',
  'data.store_replay': 'data.sources.store_replay',
  'data.vector_replay': 'data.sources.vector_replay',
  'data.rotation': 'data.sources.rotation',
  'data.frame_codec': 'data.store.frame_codec',
  'data.frame_store': 'data.store.frame_store',
  'data.store_files': 'data.store.store_files',
  'data.store_writer': 'data.store.store_writer',
  'data.prepare': 'data.store.prepare',
  'data.export': 'data.store.export',
  'checkpoints': 'logs.checkpoints',
  'metrics_log': 'logs.jsonl',
  'training_sums': 'logs.running_means',
  'collectors': 'logs.collectors',
  'wandb_collector': 'logs.wandb_collector',
  'experiment': 'running.experiment',
  'runners': 'running.runners',
  'saving_runner': 'running.saving_runner',
  'offline_runner': 'running.offline_runner',
  'online_runner': 'running.online_runner',
  'online_loop': 'running.compiled_online_loop',
  'seeds': 'running.seeds',
  'local_runs': 'running.parallel_runs',
  'run_directory': 'running.run_directory',
  'saved_runs': 'running.resume_checks',
  'stopping': 'running.signals',
  'progress': 'running.progress',
}


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finds modules under their old names, after all other finders."""

  def find_spec(
    self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """Called by Python on a finder; returns None for names that are not in the table."""
    del path, target
    known = name.removeprefix(f'{_PROJECT}.') in MOVED and name.startswith(f'{_PROJECT}.')
    return importlib.machinery.ModuleSpec(name, self) if known else None

  def exec_module(self, module: types.ModuleType) -> None:
    """Replaces the module that Python created by the one of the new name."""
    old = module.__name__
    new = f'{_PROJECT}.{MOVED[old.removeprefix(f"{_PROJECT}.")]}'
    sys.modules[old] = importlib.import_module(new)
    logging.getLogger(_PROJECT).warning('%s is now %s; the old name goes soon.', old, new)


def install() -> None:
  """Adds the finder of old names after all others."""
  sys.meta_path.append(_OldNames())
