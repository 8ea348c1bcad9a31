"""A sweep as a SLURM array: the script for `sbatch`, with one element per run."""

from __future__ import annotations

import inspect
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from implicit_rl.sweep.spec import Spec


def script(
  spec: Spec,
  runs: int,
  output: pathlib.Path,
  arguments: Sequence[str],
  program: Sequence[str] = ('implicit_rl.sweep', '--resume'),
) -> str:
  """Returns the text of a batch script, written by submitit.

  An element that is requeued, or an array that is submitted again, resumes from the checkpoints.

  Args:
    spec: of the sweep; `slurm` may set any parameter that submitit knows.
    runs: number of runs.
    output: directory of the sweep; SLURM's own logs go below it.
    arguments: of the program for every element.
    program: the module that does one run by its `--index`, and its first arguments.

  Raises:
    RuntimeError: if submitit is not installed.
    ValueError: for a parameter in `slurm` that submitit does not know.
  """
  # Otherwise its import closes all log handlers of the process, and absl's stream with them.
  os.environ.setdefault('SUBMITIT_LOG_LEVEL', 'NOCONFIG')
  try:
    # Its executors need SLURM on the machine; this writes the same text anywhere.
    from submitit.slurm.slurm import _make_sbatch_string
  except ImportError as error:
    raise RuntimeError("submitit is not installed: pip install -e '.[ray]'.") from error
  known = set(inspect.signature(_make_sbatch_string).parameters)
  known -= {'command', 'folder', 'map_count', 'setup'}
  settings: dict[str, Any] = {
    'job_name': spec.path.stem,
    'cpus_per_task': max(round(spec.resources.cpus), 1),
    'time': 24 * 60,
    'stderr_to_stdout': True,
    'additional_parameters': {'requeue': True},
  }
  if spec.resources.gpus:
    settings['gpus_per_node'] = max(round(spec.resources.gpus), 1)
  if spec.resources.memory_gb:
    settings['mem'] = f'{spec.resources.memory_gb:g}GB'
  for name, value in spec.slurm.items():
    if name not in known:
      raise ValueError(
        f'{spec.path}: slurm.{name} is not a parameter of submitit; known are '
        f'{", ".join(sorted(known))}.'
      )
    settings[name] = value
  command = shlex.join([sys.executable, '-m', *program, *arguments])
  return _make_sbatch_string(
    f'{command} --index="$SLURM_ARRAY_TASK_ID"',
    folder=output.absolute() / 'slurm',
    map_count=runs,
    setup=[f'cd {shlex.quote(os.getcwd())}'],
    **settings,
  )
