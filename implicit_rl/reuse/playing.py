"""Command line: `implicit-rl play RUN --output=game.gif` records episodes of a trained run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from implicit_rl import environments
from implicit_rl.reuse import options as run_options
from implicit_rl.reuse import pictures
from implicit_rl.running.loading import LoadedRun
from implicit_rl.running.policy import Policy


class Recording(NamedTuple):
  """Episodes as pictures.

  Attributes:
    pictures: [H, W, 3] uint8 each: the start of an episode and one after every step.
    returns: of each episode; the last is incomplete if the pictures were limited.
    complete: whether the last episode was played to its end.
  """

  pictures: list[np.ndarray]
  returns: list[float]
  complete: bool


def record(
  run: LoadedRun,
  episodes: int = 1,
  *,
  max_steps: int = 1000,
  epsilon: float | None = None,
  seed: int | None = None,
) -> Recording:
  """Plays episodes in sequence and draws every step.

  Args:
    run: from `load_run`.
    episodes: how many.
    max_steps: total number of environment steps after which the recording ends.
    epsilon: probability of a random action, in place of `Agent.epsilon_eval`.
    seed: of the episodes and the policy; None uses the run's.

  Raises:
    ValueError: if `epsilon` is out of range or does not apply, or the environment cannot be drawn.
  """
  seed = run.seed if seed is None else seed
  policy = Policy(run.agent, epsilon, seed)
  environment = run.make_environment(seed)
  able = environments.check(environment)
  if able.seed is not None:
    able.seed(int(jax.random.bits(jax.random.key(seed), dtype='uint32')))
  drawn: list[np.ndarray] = []
  returns: list[float] = []
  steps = 0
  for _ in range(episodes):
    observation, over = environment.reset(), False
    policy.reset()
    drawn.append(pictures.of(environment, able, observation))
    returns.append(0.0)
    length = 0
    while not over:
      if steps == max_steps:
        return Recording(drawn, returns, False)
      observation, reward, life_lost, _ = environment.step(policy(observation))
      if life_lost:
        policy.reset()  # As in training, an agent's episode ends with a life.
      returns[-1] += float(reward)
      steps, length = steps + 1, length + 1
      drawn.append(pictures.of(environment, able, observation))
      over = able.over(environment) or length == environment.max_steps_per_episode
  return Recording(drawn, returns, True)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl play', description='Records episodes of a trained run as .gif or .mp4.'
  )
  run_options.add(parser)
  parser.add_argument(
    '--output', '--gif', '--mp4', required=True, metavar='PATH', help='ends in .gif or .mp4'
  )
  parser.add_argument('--episodes', type=run_options.at_least_one, default=1)
  parser.add_argument(
    '--max_steps', type=run_options.at_least_one, default=1000, help='the recording ends here'
  )
  parser.add_argument('--per_second', type=run_options.at_least_one, default=15, help='pictures')
  parser.add_argument(
    '--epsilon', type=float, help='probability of random actions; default: Agent.epsilon_eval'
  )
  parser.add_argument('--seed', type=int, help="of the episodes; default: the run's")
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  for what in ('VIDEO', 'AUDIO'):  # pygame draws into memory and does not look for a display.
    os.environ.setdefault(f'SDL_{what}DRIVER', 'dummy')
  try:
    pictures.check_output(options.output)
    run = run_options.load(options)
    found = record(
      run,
      options.episodes,
      max_steps=options.max_steps,
      epsilon=options.epsilon,
      seed=options.seed,
    )
    path = pictures.save(found.pictures, options.output, options.per_second)
  except (OSError, ValueError) as error:
    print(f'implicit-rl play: {error}', file=sys.stderr)
    return 1
  returns = ', '.join(f'{one:g}' for one in found.returns)
  cut = '' if found.complete else f'; the last one was cut after {options.max_steps} steps in all'
  print(f'{path}: iteration {run.iteration}, {len(found.pictures)} pictures, return {returns}{cut}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
