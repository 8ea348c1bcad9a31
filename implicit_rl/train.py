"""Trains an agent: implicit-rl train --base_dir=runs/first --gin_files=GIN_FILE."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string('base_dir', None, 'Directory of the run. A run that exists there is resumed.')
flags.DEFINE_multi_string('gin_files', [], 'Gin files, in order; later ones override earlier ones.')
flags.DEFINE_multi_string(
  'gin_bindings', [], "Gin lines that override the files, such as 'OfflineRunner.num_iterations=5'."
)
flags.DEFINE_string(
  'data_dir',
  None,
  'Directory of TFDS datasets; without it the embedded sample of the game is used.',
)
flags.DEFINE_alias('replay_dir', 'data_dir')
flags.DEFINE_integer('seed', 0, 'Seed from which all randomness derives.', lower_bound=0)
flags.DEFINE_string(
  'compilation_cache',
  None,
  'Directory that caches compiled programs for faster starts; "" turns caching off. Default: '
  "JAX_COMPILATION_CACHE_DIR, or else implicit_rl in the user's cache directory.",
)
flags.DEFINE_string(
  'coordinator',
  None,
  'For one run on several hosts, started on each: HOST:PORT of the first host, or auto if JAX '
  'finds the hosts itself (TPU pods, SLURM).',
)
flags.DEFINE_integer('num_hosts', 1, 'With --coordinator: number of hosts.', lower_bound=1)
flags.DEFINE_integer('host', 0, 'With --coordinator: index of this host.', lower_bound=0)
flags.DEFINE_bool(
  'list_configurables',
  False,
  'Instead of training, list all settings; with names, such as `Learner`, explain those.',
)
flags.register_multi_flags_validator(
  ['base_dir', 'list_configurables'],
  lambda values: values['base_dir'] is not None or values['list_configurables'],
  message='--base_dir says where the run is kept, such as --base_dir=runs/first.',
)


def one_line(error: Exception) -> str:
  """Returns an error's message in one line, with gin's names explained if gin raised it."""
  gin_names = sys.modules.get(
    'implicit_rl.compat.gin_names'
  )  # Absent: the error was raised before gin was loaded.
  return gin_names.one_line(error) if gin_names else ' '.join(str(error).split())


def list_configurables(names: list[str]) -> str:
  """Returns what gin can bind after the given gin files are read."""
  from implicit_rl.compat import gin_names
  from implicit_rl.running import configurables, experiment

  configurables.load(everything=True)
  if FLAGS.gin_files:  # They may import a user's modules.
    experiment.parse_gin(FLAGS.gin_files, FLAGS.gin_bindings)
  return gin_names.listing(names)


def run(argv: list[str]) -> None:
  """Checks the parsed flags, builds the runner and runs it.

  Args:
    argv: the program's name, which every error starts with, and arguments that are not flags.

  Raises:
    SystemExit: with one line that states the problem.
  """
  program = os.path.basename(argv[0])
  if not FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Dopamine and TFDS log a lot; --verbosity=0 shows it.
  try:
    if FLAGS.list_configurables:
      print(list_configurables(argv[1:]))
      return
    if len(argv) > 1:
      raise ValueError(f'Unexpected argument {argv[1]!r}: every argument is a --flag=value.')
    from implicit_rl.compat import config_files

    for path in FLAGS.gin_files:
      config_files.find(path)
    base_dir = os.path.expanduser(FLAGS.base_dir)
    data_dir = FLAGS.data_dir and os.path.expanduser(FLAGS.data_dir)
    if data_dir is not None and not os.path.isdir(data_dir):
      raise FileNotFoundError(f'--data_dir: no such directory: {data_dir}')
    from implicit_rl.cpu import launcher, xla_flags

    os.environ.update(xla_flags.variables(FLAGS.compilation_cache))
    launcher.prepare()
    # Imported late: errors in flags are reported before TensorFlow and Dopamine load.
    if FLAGS.coordinator is not None:
      from implicit_rl import sharding

      sharding.connect(FLAGS.coordinator, FLAGS.num_hosts, FLAGS.host)
    from implicit_rl.running import experiment

    experiment.parse_gin(FLAGS.gin_files, FLAGS.gin_bindings, data_dir)
    if FLAGS.coordinator is not None:
      base_dir = experiment.join_hosts(base_dir, FLAGS.seed)
    runner = experiment.create_runner(base_dir, FLAGS.seed)
  except (OSError, ValueError) as error:  # Errors that we or gin raise for invalid input.
    logging.debug('Where it happened:', exc_info=error)
    raise SystemExit(f'{program}: {one_line(error)}') from None
  except Exception as error:  # May be a mistake in a user's own agent.
    logging.debug('Where it happened:', exc_info=error)
    raise SystemExit(
      f'{program}: {type(error).__name__}: {one_line(error)} (--verbosity=1 shows where)'
    ) from None
  try:
    runner.run_experiment()
  except (OSError, ArithmeticError) as error:  # A full disk, or non-finite numbers.
    logging.debug('Where it happened:', exc_info=error)
    raise SystemExit(f'{program}: {one_line(error)}') from None


def main(arguments: Sequence[str]) -> None:
  """Parses the command line and trains, as a subcommand of `implicit-rl`."""
  # absl's --help shows the main module's docstring and flags.
  sys.modules['__main__'].__doc__ = __doc__
  for flag in FLAGS.get_key_flags_for_module(__name__):
    FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(run, ['implicit-rl train', *arguments])
