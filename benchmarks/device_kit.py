"""Packs what `implicit_rl.measure_device` needs for a machine with JAX but without a network.

    python benchmarks/device_kit.py --python=3.12 --output=runs/device_kit

The machine has Python, pip, and JAX with its device's plugin, so NumPy and SciPy too. The kit is
one archive with this package's code, wheels of what is missing there, and a script:

    tar xf implicit_rl_device_kit.tar.gz && sh implicit_rl_device_kit/run.sh --output=report
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).parent.parent
NAME = 'implicit_rl_device_kit'
LIMIT = 60 * 2**20  # bytes
# What the report imports beyond JAX and its own needs, in this environment's versions; gymnax
# imports six undeclared.
PACKAGES = (
  *('flax', 'optax', 'gin-config', 'gymnax', 'gymnasium', 'zstandard', 'absl-py', 'msgpack'),
  *('rich', 'pygments', 'markdown-it-py', 'mdurl', 'PyYAML', 'typing_extensions', 'etils'),
  *('cloudpickle', 'farama-notifications', 'treescope', 'six'),
)
LEFT_OUT = ('embedded', '__pycache__', 'gin_configs', '*.csv', '*.css')
RUN = """#!/bin/sh
# Installs the wheels beside this script, once, and measures the device that JAX finds.
# It needs Python VERSION with pip and JAX, which is too large to carry; PYTHON names another one.
set -e
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
"$python" - <<'END'
import sys
if sys.version_info[:2] != tuple(map(int, 'VERSION'.split('.'))):
  sys.exit('%s is Python %d.%d; the wheels are for VERSION. Set PYTHON=/path/to/pythonVERSION, or '
           'make the kit anew with KIT_PYTHON.' % (sys.executable, *sys.version_info[:2]))
try:
  import jax
except ImportError as error:
  sys.exit('%s cannot import JAX (%s). Install jax with its plugin for your device first, or set '
           'PYTHON to a Python that has it.' % (sys.executable, error))
print('JAX', jax.__version__, 'finds', jax.devices(), '; the kit was made with JAX', 'JAX_VERSION')
END
test -d "$here/site" || "$python" -m pip install --quiet --no-index --no-deps --no-compile \\
  --disable-pip-version-check --target "$here/site" "$here"/wheels/*.whl
PYTHONPATH="$here:$here/site:$PYTHONPATH" exec "$python" -m implicit_rl.measure_device "$@"
"""


def download(folder: pathlib.Path, python: str) -> None:
  """Fetches the wheels for Linux on x86-64 and a version of Python such as '3.12'."""
  versions = [f'{name}=={importlib.metadata.version(name)}' for name in PACKAGES]
  platforms = [f'--platform=manylinux_2_{n}_x86_64' for n in (28, 27, 24, 17)]
  pip = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check']
  target = ['--only-binary=:all:', f'--python-version={python}', '--implementation=cp', *platforms]
  subprocess.run([*pip, '--no-deps', *target, f'--dest={folder}', *versions], check=True)


def run_script(python: str) -> str:
  """Returns the script that installs and measures, for a version of Python such as '3.12'."""
  version = importlib.metadata.version('jax')
  return RUN.replace('JAX_VERSION', version).replace('VERSION', python)


def pack(output: pathlib.Path, python: str) -> pathlib.Path:
  """Makes the archive and returns its path.

  Raises:
    SystemExit: if it is larger than `LIMIT`, or pip can't fetch a wheel.
  """
  folder = output / NAME
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(
    ROOT / 'implicit_rl', folder / 'implicit_rl', ignore=shutil.ignore_patterns(*LEFT_OUT)
  )
  shutil.copy(ROOT / 'LICENSE', folder)
  (folder / 'run.sh').write_text(run_script(python))
  try:
    download(folder / 'wheels', python)
  except subprocess.CalledProcessError as error:
    raise SystemExit(f'--python={python}: pip found no wheel; its message is above.') from error
  archive = output / f'{NAME}.tar.gz'
  with tarfile.open(archive, 'w:gz') as tar:
    tar.add(folder, NAME)
  size = archive.stat().st_size
  if size > LIMIT:
    raise SystemExit(f'{archive} has {size / 2**20:.0f} MiB, more than {LIMIT / 2**20:.0f}.')
  print(f'{archive}: {size / 2**20:.1f} MiB. On the machine with the device, which has Python')
  print(f"{python}, pip, and JAX with the device's plugin:")
  print(f'  tar xf {archive.name} && sh {NAME}/run.sh --output=report')
  return archive


def main() -> None:
  """Packs the kit."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = f'{sys.version_info.major}.{sys.version_info.minor}'
  parser.add_argument('--python', default=here, help="version of the machine's Python")
  parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/device_kit'))
  options = parser.parse_args()
  pack(options.output, options.python)


if __name__ == '__main__':
  main()
