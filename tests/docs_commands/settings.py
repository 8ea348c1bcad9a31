"""What makes each command of the pages short, what it needs, and which commands can't run here."""

from tests.docs_commands.pages import OFFLINE, ROOT

_TINY_RUN = (
  '--gin_bindings="OfflineRunner.training_steps = 2" --gin_bindings="Agent.batch_size = 4" '
  '--gin_bindings="OfflineRunner.evaluation_steps = 1" '
  '--gin_bindings="OfflineRunner.max_steps_per_episode = 5" '
  '--gin_bindings="OfflineRunner.measure_size = 16"'
)
_ONE_FIGURE = '--rows=2 --only figure_2 --seeds=1 --processes=1 --output=runs/gridworld'
_TINY_BOARD = '--spec=mine.yaml --output=runs/board --results=runs/board --processes=1'
_TINY_PONG = '--quick --processes=1 --steps=80 --updates=10 --output=runs/pong_small'

# What is appended to a command that has these words; of several entries the longest counts.
# `train` is shortened by its gin file: tests/command_line.py.
SMALL = {
  'implicit-rl --help': '',
  'implicit-rl analysis': '',
  'implicit-rl analysis aggregates': '--reps=50',
  'implicit-rl analysis improvement': '--reps=50',
  'implicit-rl analysis profiles': '--reps=50',
  'implicit-rl configs': '',
  'implicit-rl data': '',
  'implicit-rl demo': '--seeds=2 --iterations=1',
  'implicit-rl diagnose': '',
  'implicit-rl environments': '',
  'implicit-rl evaluate': '--episodes=2',
  'implicit-rl export': '',
  'implicit-rl gridworld figures': _ONE_FIGURE,
  'implicit-rl gridworld map': '--limit=1 --seeds=1 --processes=1',
  'implicit-rl gridworld map --table': '',
  'implicit-rl leaderboard': _TINY_BOARD,
  'implicit-rl measure-device': '--tiny',
  'implicit-rl play': '--max_steps=3',
  'implicit-rl report': '',
  'implicit-rl sweep': f'--index=0 {_TINY_RUN}',
  'implicit-rl sweep --estimate': '',
  'implicit-rl sweep --list': '',
  'implicit-rl sweep --print_slurm': '',
  'implicit-rl theory': '--seeds=1 --output=runs/theory',
  'implicit-rl train --list_configurables': '',
  'implicit-rl zoo': '--agents breakout --iterations=1',
  'python -c': '',
  'python -m implicit_rl.measure_device.roofline': '',
  'python benchmarks/atari_loop.py': '--rounds=1',
  'python benchmarks/checkouts.py': '--rounds=1 --only SAC --before=../before',
  'python benchmarks/data_training.py': '--rounds=1 --updates=2',
  'python benchmarks/evaluation.py': '--rounds=1 --sizes MinAtar',
  'python benchmarks/gridworld.py': '--seeds=1 --processes=1',
  'python benchmarks/growth.py': '--rounds=1 --sizes MinAtar',
  'python benchmarks/learner.py': "--rounds=1 --paddings SAME --only 'ours, DQN' 'plain Flax'",
  'python benchmarks/minatar.py': '--rounds=1 --parts offline',
  'python benchmarks/penalty.py': '--rounds=1 --calls=1 --sizes MinAtar',
  'python benchmarks/penalty.py --sizes': '--rounds=1 --calls=1',
  'python benchmarks/prepare.py': '--rows=2000 --capacity=1000 --kills=1',
  'python benchmarks/raw_logs.py': '--games Pong --steps=400 --capacity=250 --indices=20',
  'python benchmarks/remedies.py': (
    '--rounds=1 --other-rounds=1 --calls=1 --sizes MinAtar --only remedies/redo'
  ),
  'python benchmarks/run_all.py': '--quick --only startup.py',
  'python benchmarks/sac.py': "--rounds=1 --updates=8 --only ours 'products alone'",
  'python benchmarks/seeds.py': '--rounds=1 --updates=2 --sizes gridworld',
  'python benchmarks/seeds.py --processor_time': "--rounds=1 --updates=8 --sizes 'online gymnax'",
  'python benchmarks/soak.py': '--minutes=0.1',
  'python benchmarks/startup.py': '--rounds=1 --runs MinAtar',
  'python benchmarks/update_profile.py': "--rounds=1 --agent 'MinAtar DQN'",
  'python experiments/atari_scores.py': '',
  'python experiments/environments.py': '--quick --tasks=Catch',
  'python experiments/matmul_precision.py': '--seeds=1 --iterations=1',
  'python experiments/matmul_precision.py report': '',
  'python experiments/minatar_offline.py': '--quick --games=Breakout --processes=1',
  'python experiments/minatar_offline.py report': '',
  'python experiments/minatar_online.py': '--quick --games=Breakout --processes=1',
  'python experiments/minatar_online.py report': '',
  'python experiments/mujoco_offline.py': '--quick --tasks=Hopper --processes=1',
  'python experiments/mujoco_offline.py report': '',
  'python experiments/mujoco_online.py': '--quick --tasks=Hopper --processes=1',
  'python experiments/mujoco_online.py report': '',
  'python experiments/mujoco_peer.py': '--steps=40 --iteration=20 --warm_up=10 --output=runs/peer',
  'python experiments/paper_rows.py': '',
  'python experiments/pong_small.py': _TINY_PONG,
  'python experiments/rank_collapse_picture.py': '',
  'python experiments/regimes.py': '--quick --regimes=catch',
  'python experiments/regimes.py report': '',
  'python run_experiment.py --list_configurables': '',
}

# Why a command with this text does not run here, and the test that runs it, if one does.
ELSEWHERE = {
  '--address=auto': 'a Ray cluster; tests/sweep/test_sweep.py starts a local one',
  '--coordinator=': 'a second host: tests/test_sharding.py',
  '--data_dir=.': 'DQN Replay: tests/data/test_tfds_replay.py',
  '--device=gpu': 'a GPU',
  "'G'": 'a game to fill in',
  "'T'": 'a task to fill in',
  'benchmarks/data.py': 'frames: tests/test_benchmarks.py',
  'benchmarks/data_scale.py': 'frames: tests/test_benchmarks.py',
  'benchmarks/device_kit.py': 'wheels of a package index: tests/test_measure_device.py',
  'benchmarks/diagnostics.py': 'tests/test_benchmarks.py',
  'benchmarks/frame_codecs.py': 'frames: tests/test_benchmarks.py',
  'download_and_prepare': 'downloads DQN Replay',
}
PEERS = ROOT / '.venv-peers'
if not PEERS.exists():
  for _script in ('benchmarks/evaluation.py', 'experiments/mujoco_peer.py'):
    ELSEWHERE[_script] = 'the libraries of `make bench-peers`'

# The same for targets of the Makefile; of the others, the programs of their recipes run here.
TARGETS = {
  'bench-peers': 'downloads 2.2 GB',
  'check': 'lints; CI runs it',
  'docs': 'tests/test_docs.py',
  'install': 'makes the environment of these tests; CI runs it',
  'test': 'runs these tests',
  'test-all': 'runs these tests',
  'wheels': 'tests/test_package.py',
}

# The command that makes what others need, where it is no training with that --base_dir.
_FIRST = f'implicit-rl train --base_dir=%s {OFFLINE}'
MADE_BY = {
  'policy.jaxexport': 'implicit-rl export runs/zoo/breakout --output=policy.jaxexport',
  'published.csv': (
    'python experiments/atari_scores.py --baselines=dopamine/baselines/atari/data '
    '--curves=published.csv'
  ),
  'runs/demo': 'implicit-rl demo',
  'runs/first': _FIRST % 'runs/first',
  'runs/minatar': 'implicit-rl sweep --spec=sweeps/minatar.yaml',
  'runs/remedy': _FIRST % 'runs/remedy',
  'store': 'implicit-rl data prepare SOURCE STORE',
  'runs/zoo': 'implicit-rl zoo --output=runs/zoo',
}
