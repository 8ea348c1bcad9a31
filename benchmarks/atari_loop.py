"""Times Atari's whole offline loop, sampling and update, against Dopamine's, on one core.

    python benchmarks/atari_loop.py

Ours is the agent that `run_experiment.py` builds from gin_configs/atari/offline_dqn.gin, with the
penalty. Dopamine's is JaxDQNAgent with its own buffer, and its train function on the circular
buffer loaded from logs in DQN Replay's format. All hold the embedded Pong; see `loops.py`.
"""

from __future__ import annotations

import argparse

import loops
import machine


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=7)
  options = parser.parse_args()
  names = [name for name in loops.LOOPS if ', Atari' in name and 'evaluation' not in name]
  print(loops.compare(names, 'update', options.rounds))
  print(
    f'\nMedians (least to most) of {options.rounds} rounds in turn, one core; {machine.line()}.'
  )


if __name__ == '__main__':
  main()
