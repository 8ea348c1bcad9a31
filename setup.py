"""Packaging: what implicit_rl needs, and why each bound is there.

Measured in a fresh environment (Python 3.11, Linux x86-64): the plain install takes 3.7 GB, of
which TensorFlow is 1.9 GB, jaxlib 0.35 GB, pyarrow with tensorflow-datasets 0.2 GB, OpenCV 0.2 GB.
All but pyarrow and tensorflow-datasets are dopamine-rl's own requirements, so extras for Atari or
for TFDS would save a few percent and leave the newcomer with an install that cannot do the main
job: there are none.

IMPLICIT_RL_DISTRIBUTION=rank builds implicit-rl-rank instead, for those who only measure (0.75 GB):
fewer modules of the same tree under the same import names. docs/install.md says when to use it.
"""

import os
import pathlib
import re

from setuptools import find_packages, setup

# Lower bounds are what the tests run with; an upper bound has its reason beside it. pip picks the
# newest that fit: jax 0.10 on Python 3.11, which newer jax has left, jax 0.11 on 3.12 and 3.13.
CORE = [
  'absl-py>=2.5',
  'ale-py>=0.12',
  'diffrax>=0.7.2',
  'dopamine-rl>=4.1.2,<4.2',  # 4.0 fails on current gymnasium; a 4.2 needs dopamine_compat re-read
  'flax>=0.12.8',
  'gin-config>=0.5',
  'google-crc32c>=1.8',  # checksums of TFRecord files, so that reading them needs no TensorFlow
  'gymnasium[mujoco]>=1.3',  # MuJoCo and what it draws with: 0.1 GB, wheels for every platform
  'gymnax>=1.0.1,<1.1',  # its `step_env` and `reset_env` are called; it holds jax below 0.12
  'h5py>=3.14',  # TensorFlow asks for it too
  'importlib_resources>=7',  # tensorflow-datasets imports it undeclared
  'jax>=0.10.2',
  'matplotlib>=3.11',
  'numpy>=2.4',
  'optax>=0.2.8',
  'pandas>=2.3.3,<3',  # with 3, arch 7.2 fails on import, and with it rliable, which holds it
  'protobuf>=6',  # what TFDS's records are; TensorFlow and TensorBoard install it anyway
  'pyyaml>=6',  # a sweep's file; flax installs it anyway
  'rliable>=1.2',
  'scipy>=1.17',
  'setuptools>=77',  # tensorflow-probability imports distutils, which left Python with 3.12
  'tensorboard>=2.21',  # Dopamine's runner imports it; TensorFlow 2.21 installs it no longer
  'tensorflow>=2.21',
  'tensorflow-datasets>=4.9.10',
  'tqdm>=4.70',
  'zstandard>=0.25',
]

DOCS = [
  'latex2mathml>=3.81',  # formulas without a script from elsewhere
  'mkdocs-material>=9.8,<10',  # a major version changes the theme's templates
  'mkdocstrings[python]>=1.0',
]
WANDB = ['wandb>=0.31']
BOX2D = ['box2d>=2.3.10']  # LunarLander; gymnasium's own extra also asks for pygame-ce, which
# writes the same folder as pygame, which dopamine-rl asks for.
MINARI = ['minari[hdf5]>=0.5.4']  # only who has such datasets needs it
RAY = [
  'ray>=2.60',  # 0.24 GB; its plain install is the scheduler alone
  'rich>=15',  # the live table; keras and flax install it anyway
  'submitit>=1.5.4',  # writes a sweep as a SLURM array
]

EXTRAS = {
  'gpu': ['jax[cuda12]'],  # runs on the widest range of drivers; newer ones may take jax[cuda13]
  'tpu': ['jax[tpu]'],
  'docs': DOCS,
  'wandb': WANDB,
  'minari': MINARI,
  'box2d': BOX2D,
  'ray': RAY,
  'dev': [
    *DOCS,
    *RAY,  # the tests run sweeps, kill their workers and a node
    *WANDB,  # 0.08 GB; the collector is tested with the real thing, offline
    'build>=1.6',  # makes the wheels, also in a test
    'hypothesis>=6.170',
    *BOX2D,  # the tests land on the Moon
    *MINARI,  # the tests write and read local datasets
    'ipykernel>=7.4',  # runs the notebook in a test
    'mypy==2.4.1',  # pinned: a new checker must not turn an unchanged tree red
    'nbclient>=0.11',
    'nbformat>=5.11',
    'packaging>=26',
    'pip-audit>=2.9',
    'pre-commit>=4.7',
    'pytest>=9',
    'pytest-timeout>=2.4',
    'pytest-xdist>=3.8',
    'rlax>=0.1.9',  # reference of the loss tests; brings tfp-nightly (see dopamine_compat)
    'ruff==0.17.6',  # pinned, like mypy
    'twine>=7',  # checks their metadata
  ],
}

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'implicit_rl/__init__.py').read_text())
# In a wheel they are folders of the package; see implicit_rl/compat/config_files.py.
SHIPPED = {f'implicit_rl.{name}': name for name in ('gin_configs', 'sweeps')}
WHOLE = {
  'name': 'implicit_rl',
  'description': 'Do value networks trained by bootstrapping lose rank, and what prevents it?',
  'packages': [*find_packages(include=['implicit_rl', 'implicit_rl.*']), *SHIPPED],
  'package_data': {
    'implicit_rl': ['data/embedded/**/*', 'analysis/*.css', 'analysis/*.csv', 'py.typed'],
    'implicit_rl.gin_configs': ['**/*.gin'],
    'implicit_rl.sweeps': ['*.yaml'],
  },
  'install_requires': CORE,
  'extras_require': EXTRAS,
  'entry_points': {'console_scripts': ['implicit-rl = implicit_rl.cli:main']},
}

# What implicit_rl.rank, metrics and diagnose import; a test runs them from the built wheel alone.
RANK_MODULES = (
  *('context', 'eigensolvers', 'layer_graph', 'metrics', 'rank', 'types'),
  *('compat.config_files', 'compat.gin_state', 'compat.old_names', 'compat.settings'),
  *('cpu.eigenpairs', 'logs.checkpoints', 'logs.errors', 'logs.jsonl'),
)
RANK_LIBRARIES = ('absl-py', 'flax', 'gin-config', 'jax', 'numpy', 'optax')
RANK = {
  'name': 'implicit-rl-rank',
  'description': 'Measures rank, plasticity and values of networks: a small part of implicit_rl.',
  'py_modules': [f'implicit_rl.{name}' for name in RANK_MODULES],
  'packages': [
    *(f'implicit_rl.{name}' for name in ('diagnosis', 'diagnostics', 'losses')),
    'implicit_rl.gin_configs',
  ],
  'package_data': {'implicit_rl.gin_configs': ['diagnostics/all.gin']},
  'install_requires': [one for one in CORE if re.match(r'[\w-]+', one)[0] in RANK_LIBRARIES],
  # Apart from what the whole package's build leaves.
  'options': {'build': {'build_base': 'build/rank'}},
}

setup(
  **(RANK if os.environ.get('IMPLICIT_RL_DISTRIBUTION') == 'rank' else WHOLE),
  version=VERSION.group(1),
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  author='The implicit_rl authors',
  license_expression='Apache-2.0',
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  keywords=['reinforcement learning', 'effective rank', 'plasticity', 'JAX', 'Dopamine'],
  python_requires='>=3.11,<3.14',  # TensorFlow has only a pre-release for 3.14
  package_dir=SHIPPED,
)
