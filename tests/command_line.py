"""What tests of the real entry point share: the command line in this process, on small input."""

import pathlib

import pytest
from absl import flags

import run_experiment
from implicit_rl.logs import jsonl

ROOT = pathlib.Path(run_experiment.__file__).parent
_RUNNER = {
  'num_iterations': 1,
  'evaluation_steps': 1,
  'max_steps_per_episode': 5,
  'measure_size': 16,
}
_AGENT = {'Agent.batch_size': 4, 'NatureCNN.hidden_units': 32}
OFFLINE = {f'OfflineRunner.{name}': value for name, value in _RUNNER.items()} | {
  'OfflineRunner.training_steps': 2,
  **_AGENT,
}
ONLINE = {f'OnlineRunner.{name}': value for name, value in _RUNNER.items()} | _AGENT
# Each two updates at n = 1/4: three episodes of five steps; eight turns of two games.
ATARI_REPLAY = {
  'OnlineReplay.capacity': 1000,
  'OnlineRunner.training_steps': 15,
  'Agent.min_replay_history': 7,
}
MINATAR_REPLAY = {
  'DeviceReplay.capacity': 1000,
  'DeviceReplay.num_environments': 2,
  'OnlineRunner.training_steps': 16,
  'Agent.min_replay_history': 8,
}
# Three episodes of five steps, too few for a fall, and an update in each of the last two.
MUJOCO_REPLAY = {
  'OnlineReplay.capacity': 2000,
  'OnlineRunner.training_steps': 15,
  'Agent.min_replay_history': 13,
}
MUJOCO = {'ActorCritic.hidden_units': (32, 32), 'MuJoCoEnvironment.num_environments': 2}


def small(gin_file):
  """Bindings that make a run of a shipped gin file short."""
  kind = pathlib.Path(gin_file).parent.name
  more = MUJOCO if kind == 'mujoco' else {}
  if 'online' not in str(gin_file):
    return OFFLINE | more
  replays = {'atari': ATARI_REPLAY, 'gymnasium': ATARI_REPLAY, 'mujoco': MUJOCO_REPLAY}
  return ONLINE | more | replays.get(kind, MINATAR_REPLAY)


def launch(base_dir, *gin_files, seed=0, data_dir=None, **bindings):
  """What the command line does, in this process."""
  arguments = ['run_experiment.py', f'--base_dir={base_dir}', f'--seed={seed}']
  arguments += [
    f'--gin_files={path if pathlib.Path(path).is_absolute() else ROOT / path}' for path in gin_files
  ]
  settings = (small(gin_files[0]) if gin_files else {}) | bindings
  arguments += [f'--gin_bindings={name} = {value}' for name, value in settings.items()]
  arguments += [f'--data_dir={data_dir}'] * (data_dir is not None)
  flags.FLAGS.unparse_flags()
  try:
    run_experiment.main(flags.FLAGS(arguments))
  finally:
    flags.FLAGS.unparse_flags()


def run(base_dir, *gin_files, **settings):
  """What the command line does, and the rows that it logged."""
  launch(base_dir, *gin_files, **settings)
  return jsonl.read(pathlib.Path(base_dir) / 'metrics.jsonl')


def refusal(base_dir, *gin_files, **settings):
  """The one line that ends a run which can't start, and leaves the directory as it was."""
  before = _files(base_dir)
  with pytest.raises(SystemExit) as stopped:
    run(base_dir, *gin_files, **settings)
  message = str(stopped.value)
  assert message.startswith('run_experiment.py: ') and '\n' not in message
  assert _files(base_dir) == before
  return message


def _files(directory):
  """What is in a directory, by content; None if it is not there."""
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    return None
  return {str(one): one.read_bytes() for one in directory.rglob('*') if one.is_file()}


def strip_speed(rows):
  return [
    {k: v for k, v in row.items() if not k.endswith(('_per_second', 'eval_seconds'))}
    for row in rows
  ]


def assert_close(row, expected, **tolerance):
  """The numbers of two rows of metrics.jsonl agree within a tolerance, all else exactly."""
  rest = [{k: v for k, v in one.items() if not isinstance(v, float)} for one in (row, expected)]
  assert rest[0] == rest[1]
  numbers = [{k: v for k, v in one.items() if k not in rest[0]} for one in (row, expected)]
  assert numbers[0] == pytest.approx(numbers[1], **tolerance)
