"""Raw logs made by Dopamine's own replay buffer, under the rule by which batch_rl logs it."""

import dataclasses
import itertools
import pathlib

import numpy as np

from tests.data import reference


@dataclasses.dataclass
class Logged:
  """What was logged.

  Attributes:
    folder: where.
    step_of: of each file, for each position the number of the step there; -1 for padding.
    settings: of the buffer.
  """

  folder: pathlib.Path
  step_of: dict
  settings: dict

  def load(self, checkpoint):
    """Returns Dopamine's buffer with what it reads of one checkpoint."""
    buffer = buffer_of(**self.settings)
    buffer.load(str(self.folder), checkpoint)
    return buffer


def buffer_of(shape, capacity, stack_size=4, horizon=1, gamma=0.99):
  from dopamine.tf.replay_memory import circular_replay_buffer

  return circular_replay_buffer.OutOfGraphReplayBuffer(
    observation_shape=shape,
    stack_size=stack_size,
    replay_capacity=capacity,
    batch_size=32,
    update_horizon=horizon,
    gamma=gamma,
  )


def write(folder, steps, capacity, *, stack_size=4, horizon=1, final=True, time_limit=True):
  """Adds all steps to Dopamine's buffer and saves it whenever batch_rl would.

  batch_rl's buffer logs after an `add` that leaves add_count mod C at C - 1, and once at the end
  with add_count replaced by the cursor.

  Args:
    folder: where the logs go.
    steps: an iterable of `reference.Step`.
    capacity: C.
    stack_size: of the buffer.
    horizon: of the buffer.
    final: write the log of the end as well.
    time_limit: pass `episode_end`, as Dopamine does since 2021; before, every end was terminal and
      no file listed the ends.

  Returns:
    A `Logged`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  steps = iter(steps)
  first = next(steps)
  settings = dict(
    shape=first.observation.shape, capacity=capacity, stack_size=stack_size, horizon=horizon
  )
  buffer = buffer_of(**settings)
  buffer._checkpoint_duration = 10**9  # It would remove older ones.
  for array in buffer._store.values():
    array[:] = 77  # What a row never written holds is arbitrary.
  ring = np.full(capacity, -1)
  logged = Logged(folder, {}, settings)

  def log():
    number = len(logged.step_of)
    buffer.save(str(folder), number)
    if not time_limit:
      (folder / f'episode_end_indices_ckpt.{number}.gz').unlink()
    logged.step_of[number] = ring.copy()

  for number, step in enumerate(itertools.chain([first], steps)):
    before = int(buffer.add_count)
    ended = {'episode_end': step.episode_end} if time_limit else {}
    terminal = step.terminal or (step.episode_end and not time_limit)
    buffer.add(step.observation, step.action, step.reward, terminal, **ended)
    added = np.arange(before, int(buffer.add_count))
    ring[added % capacity] = -1
    ring[added[-1] % capacity] = number
    if buffer.add_count % capacity == capacity - 1:
      log()
  if final:
    added, buffer.add_count = buffer.add_count, np.array(buffer.cursor())
    log()
    buffer.add_count = added
  return logged


def random_run(rng, episodes, longest, shape=(3, 2), cut=0.3):
  """Returns random episodes, some of them cut by a time limit."""
  lengths = rng.integers(1, longest + 1, episodes)
  terminals = rng.random(episodes) >= cut
  return reference.random_episodes(rng, lengths, terminals, shape)
