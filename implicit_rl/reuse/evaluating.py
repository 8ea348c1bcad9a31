"""Command line: `implicit-rl evaluate RUN` plays a trained run and prints its return."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from implicit_rl import environments
from implicit_rl.environments import one_by_one
from implicit_rl.reuse import options as run_options
from implicit_rl.running import policy
from implicit_rl.running.loading import LoadedRun


class Evaluation(NamedTuple):
  """Episodes of one policy.

  Attributes:
    returns: [n] float32, undiscounted.
    lengths: [n] int32, environment steps.
  """

  returns: np.ndarray
  lengths: np.ndarray

  def summary(self) -> dict[str, Any]:
    """Returns the mean return, its standard error and further statistics, as plain numbers."""
    count = len(self.returns)
    error = float(np.std(self.returns, ddof=1) / np.sqrt(count)) if count > 1 else None
    return {
      'episodes': count,
      'return_mean': float(self.returns.mean()),
      'return_standard_error': error,
      'return_min': float(self.returns.min()),
      'return_max': float(self.returns.max()),
      'steps_mean': float(self.lengths.mean()),
    }


def evaluate(
  run: LoadedRun, episodes: int = 100, *, epsilon: float | None = None, seed: int | None = None
) -> Evaluation:
  """Plays whole episodes with a trained run's policy.

  The first `episodes` that began count, so that short ones are not favoured. The policy is that of
  the run's evaluations: ε-greedy with `Agent.epsilon_eval`, or the mode of a Gaussian policy.

  Args:
    run: from `load_run`.
    episodes: how many.
    epsilon: probability of a random action, in place of `Agent.epsilon_eval`.
    seed: of the episodes; None uses the run's.

  Raises:
    ValueError: if `episodes` is below 1, or `epsilon` is out of range or does not apply.
  """
  if episodes < 1:
    raise ValueError(f'episodes must be at least 1, got {episodes}.')
  seed = run.seed if seed is None else seed
  act = policy.select(run.agent, epsilon)
  environment = run.make_environment(seed)
  able = environments.check(environment)
  play = able.evaluate or functools.partial(one_by_one.evaluate, environment, able)
  key, limit = jax.random.key(seed), environment.max_steps_per_episode
  parts: list[tuple[np.ndarray, np.ndarray]] = []
  count = steps = 0
  while count < episodes:
    # The expected number of steps of the missing episodes, given the earlier ones.
    wanted = max(1, (episodes - count) * steps // count) if count else 1
    part = play(
      act, run.params, jax.random.fold_in(key, len(parts)), wanted, limit, environments.no_progress
    )
    parts.append(part)
    count, steps = count + len(part[0]), steps + int(part[1].sum())
  returns, lengths = (np.concatenate(part)[:episodes] for part in zip(*parts, strict=True))
  return Evaluation(returns, lengths)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl evaluate',
    description='Plays a trained run, and prints the mean return ± its standard error.',
  )
  run_options.add(parser)
  parser.add_argument('--episodes', type=run_options.at_least_one, default=100)
  parser.add_argument(
    '--epsilon', type=float, help='probability of random actions; default: Agent.epsilon_eval'
  )
  parser.add_argument('--seed', type=int, help="of the episodes; default: the run's")
  parser.add_argument('--json', action='store_true', help='print everything as JSON')
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    run = run_options.load(options)
    found = evaluate(run, options.episodes, epsilon=options.epsilon, seed=options.seed)
  except (OSError, ValueError) as error:
    print(f'implicit-rl evaluate: {error}', file=sys.stderr)
    return 1
  summary = found.summary()
  if options.json:
    returns = [float(one) for one in found.returns]
    print(json.dumps({'iteration': run.iteration, **summary, 'returns': returns}))
    return 0
  uncertain = summary['return_standard_error']
  spread = '' if uncertain is None else f' ± {uncertain:.2f}'
  print(
    f'{options.run}, iteration {run.iteration}: return {summary["return_mean"]:.2f}{spread} '
    f'({summary["episodes"]} episodes from {summary["return_min"]:.2f} to '
    f'{summary["return_max"]:.2f}, {summary["steps_mean"]:.0f} steps each)'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
