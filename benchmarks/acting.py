"""Times an online agent's step in Atari: the emulator, preprocessing, and the network choosing.

    python benchmarks/acting.py

Without what it learns. Evaluations play several games at once: `evaluation.py` times them. On one
thread, in CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import os
import time

import machine


def main() -> None:
  """Plays and prints what a step took."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--game', default='Pong')
  parser.add_argument('--steps', type=int, default=300)
  options = parser.parse_args()

  from implicit_rl.running import launch

  os.environ.update(launch.environment())
  launch.start_jax()
  from implicit_rl.agents.dqn import DQNAgent
  from implicit_rl.environments.atari import AtariEnvironment

  environment = AtariEnvironment(options.game, seed=0)
  agent = DQNAgent(
    num_actions=environment.num_actions,
    observation_shape=environment.observation_shape,
    observation_dtype=environment.observation_dtype,
    stack_size=environment.stack_size,
    eval_mode=True,
  )
  action = agent.begin_episode(environment.reset())
  for steps in (20, options.steps):  # The first few compile.
    began = time.process_time()
    for _ in range(steps):
      observation, reward, _, _ = environment.step(action)
      action = agent.step(reward, observation)
    taken = (time.process_time() - began) / steps
  print(f'{1000 * taken:.2f} ms of CPU time a step of {options.game}; {machine.line()}.')


if __name__ == '__main__':
  main()
