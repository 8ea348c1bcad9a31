"""Command line of the data: `implicit-rl data prepare|info|verify|export|minari`."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from implicit_rl.data.formats import dopamine_files, minari_recordings, recordings, vector_files
from implicit_rl.data.sources import dopamine_logs
from implicit_rl.data.store import export, frame_store, prepare, store_files, store_writer

_EPILOG = """
examples:
  # Raw logs of DQN Replay, then the store they become:
  implicit-rl data prepare /data/dqn/Pong/1 /data/stores/pong_1
  # A prepared TFDS dataset:
  implicit-rl data prepare /data/tfds/rlu_atari_checkpoints_ordered/Pong_run_1 STORE
  # Train from it:
  implicit-rl train --base_dir=runs/pong --gin_files=gin_configs/atari/offline_dqn.gin \\
    --gin_files=gin_configs/data/store.gin --gin_bindings="StoreReplay.path = '/data/stores/pong_1'"

prepare may be killed at any moment; rerun the same command to resume.
"""
_MINARI_METADATA = ('author', 'author_email', 'algorithm_name', 'code_permalink', 'description')
_FORMATS = ('auto', 'dopamine', 'tfds', 'online', 'minari')


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
  logging.getLogger('absl').setLevel(logging.WARNING)
  try:
    return options.run(options)
  except (OSError, ValueError, ImportError, store_writer.StoreBusyError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('Interrupted. Rerun the same command to resume.', file=sys.stderr)
    return 130


def open_recording(
  source: pathlib.Path,
  format: str = 'auto',
  *,
  skip_missing: bool = False,
  chosen: Sequence[int] | None = None,
) -> recordings.Recording:
  """Opens a dataset that a store can be made from.

  Args:
    source: a folder of raw logs, `{data_dir}/{dataset}/{config}` of TFDS, a run's `base_dir`, or a
      Minari dataset's folder.
    format: one of 'dopamine', 'tfds', 'online' and 'minari', or 'auto' to detect the format.
    skip_missing: for raw logs: leave out checkpoints that are missing or damaged.
    chosen: for raw logs: which checkpoints.

  Raises:
    FileNotFoundError: if it does not exist or contains no readable data.
    ValueError: if it is damaged.
  """
  source = source.expanduser()
  if not source.is_dir():
    raise FileNotFoundError(f'There is no folder {source}.')
  if format == 'auto':
    format = _format_of(source)
  if format == 'dopamine':
    return dopamine_logs.DopamineLogs(source, checkpoints=chosen, skip_missing=skip_missing)
  if format == 'online':
    return minari_recordings.OnlineReplayRecording(source)
  if format == 'minari':
    return minari_recordings.MinariRecording(source)
  _tame_tensorflow()
  from implicit_rl.data.formats import tfds_files, tfds_recording

  config = source.parent if (source / 'dataset_info.json').exists() else source
  files = tfds_files.open_dataset(config.parent.parent, config.parent.name, config.name)
  return tfds_recording.TfdsRecording(files, tfds_files.read_index(files))


def _format_of(source: pathlib.Path) -> str:
  if any(dopamine_files.list_logs(f) for f in (source, source / 'replay_logs') if f.is_dir()):
    return 'dopamine'
  if (source / minari_recordings.MINARI_FILE).exists():
    return 'minari'
  if [*source.glob('dataset_info.json'), *source.glob('*.*.*/dataset_info.json')]:
    return 'tfds'
  if minari_recordings.checkpoint_folder(source):
    return 'online'
  dopamine_files.find_folder(source)  # Names logs in subfolders, if there are any.
  raise FileNotFoundError(f'{source} holds no readable data.')


def _tame_tensorflow() -> None:
  """Makes a later import of TensorFlow by TFDS quiet and without GPUs."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl data',
    description='Makes, checks and exports stores of transitions.',
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True, metavar='prepare|info|verify|export|minari')

  made = commands.add_parser(
    'prepare', help='convert a source into a store; resumes if it was interrupted'
  )
  made.add_argument('source', type=pathlib.Path, help='folder of logs, of a dataset or of a run')
  made.add_argument('store', type=pathlib.Path, help='folder to create')
  made.add_argument('--format', choices=_FORMATS, default='auto', help='of the source')
  made.add_argument('--codec', choices=frame_store.CODECS, default='zstd')
  made.add_argument('--chunk_size', type=int, default=frame_store.CHUNK_SIZE, metavar='FRAMES')
  made.add_argument(
    '--checkpoints', type=_numbers, help='raw logs: checkpoints, such as 0-9,45; default: all'
  )
  made.add_argument(
    '--skip_missing',
    action='store_true',
    help='raw logs: skip missing or damaged checkpoints, and record which',
  )
  made.set_defaults(run=_prepare)

  shown = commands.add_parser('info', help='describe a store')
  shown.add_argument('store', type=pathlib.Path)
  shown.add_argument('--json', action='store_true', help='print everything as JSON')
  shown.set_defaults(run=_info)

  checked = commands.add_parser('verify', help='check a whole store: checksums, frames, counts')
  checked.add_argument('store', type=pathlib.Path)
  checked.set_defaults(run=_verify)

  written = commands.add_parser(
    'export', help='convert a store into a TFDS dataset or raw Dopamine logs'
  )
  written.add_argument('store', type=pathlib.Path)
  written.add_argument('output', type=pathlib.Path, help='data_dir of TFDS, or folder of the logs')
  written.add_argument('--format', choices=('tfds', 'dopamine'), required=True)
  written.add_argument('--name', help='tfds: such as rlu_atari_checkpoints_ordered/Pong_run_1')
  written.add_argument(
    '--overwrite', action='store_true', help='tfds: overwrite an existing dataset'
  )
  written.add_argument('--capacity', type=int, default=1_000_000, help='dopamine: rows per log')
  written.add_argument('--stack_size', type=int, default=4, help='dopamine: zero rows, plus one')
  written.set_defaults(run=_export)

  shared = commands.add_parser(
    'minari', help='convert a MuJoCo replay or flat HDF5 file into a local Minari dataset'
  )
  shared.add_argument('source', type=pathlib.Path, help='HDF5 file, or folder of an online run')
  shared.add_argument('name', help='such as mujoco/hopper/sac-v0')
  shared.add_argument('--environment', help="gymnasium's id, if the file does not contain it")
  for field in _MINARI_METADATA:
    shared.add_argument(f'--{field}', default='unknown', help='what Minari records')
  shared.set_defaults(run=_minari)
  return parser


def _numbers(text: str) -> list[int]:
  """Returns the numbers in text such as '0-3,7'."""
  found: list[int] = []
  for part in text.split(','):
    first, _, last = part.partition('-')
    found += range(int(first), int(last or first) + 1)
  return found


def _prepare(options: argparse.Namespace) -> int:
  recording = open_recording(
    options.source,
    options.format,
    skip_missing=options.skip_missing,
    chosen=options.checkpoints,
  )
  settings = prepare.prepare(
    recording, options.store, codec=options.codec, chunk_size=options.chunk_size
  )
  _show(options.store, settings)
  return 0


def _info(options: argparse.Namespace) -> int:
  try:
    index = store_files.read_index(options.store)
  except FileNotFoundError:
    if store_writer.is_being_written(options.store):
      raise store_writer.StoreBusyError(
        f'{options.store} is being written by another process.'
      ) from None
    raise
  if options.json:
    print(json.dumps(index, indent=2))
  else:
    _show(options.store, index['settings'])
  return 0


def _verify(options: argparse.Namespace) -> int:
  _show(options.store, prepare.verify(options.store))
  print('The store is intact.')
  return 0


def _export(options: argparse.Namespace) -> int:
  if options.format == 'tfds':
    _tame_tensorflow()
    if not options.name:
      raise ValueError(
        '--name is missing: give a name such as rlu_atari_checkpoints_ordered/Pong_run_1.'
      )
    print(export.to_tfds(options.store, options.output, options.name, overwrite=options.overwrite))
  else:
    count = export.to_dopamine(
      options.store, options.output, capacity=options.capacity, stack_size=options.stack_size
    )
    print(f'{options.output}: {count} logs')
  return 0


def _minari(options: argparse.Namespace) -> int:
  metadata = {field: getattr(options, field) for field in _MINARI_METADATA}
  data = vector_files.read(options.source)
  print(vector_files.write_minari(options.name, data, options.environment, **metadata))
  return 0


def _show(store: pathlib.Path, settings: dict[str, Any]) -> None:
  """Prints a store's content."""
  size = sum(path.stat().st_size for path in store.iterdir())
  rows = settings['rows']
  numbers = [number for number, _ in settings['checkpoints']]
  lines = {
    'store': store,
    'from': settings['source']['dataset'],
    'rows': f'{rows:,} in {settings["episodes"]:,} episodes, {settings["terminals"]:,} terminals',
    'checkpoints': recordings.ranges(numbers),
    'frames': f'{settings["dtype"]} {tuple(settings["shape"][1:])}, {settings["codec"]}',
    'size': f'{size / 2**20:,.1f} MiB, {size / rows:.1f} bytes a row',
    'rewards': f'sum {settings["reward_sum"]:g}',
    'actions': f'0 to {settings["max_action"]}',
    'content': settings['content_sha256'],
  }
  if settings['episodes_without_beginning']:
    lines['without beginning'] = f'{settings["episodes_without_beginning"]} episodes'
  for entry in settings['skipped']:
    lines[f'skipped {entry.get("checkpoint", "")}'] = entry['why']
  for name, value in lines.items():
    print(f'{name:18}{value}')


if __name__ == '__main__':
  sys.exit(main())
