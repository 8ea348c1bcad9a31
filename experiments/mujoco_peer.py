"""The same-budget curve of a peer's SAC, which `mujoco_online.py` draws beside ours.

    make bench-peers
    .venv-peers/bin/python experiments/mujoco_peer.py --task=Hopper --output=runs/mujoco_online

The peer is Stable-Baselines3, or with --library=sbx its JAX edition, which is twice as fast here.

Networks, rates, batch, warm-up, time limit and evaluation are those of
gin_configs/mujoco/online_sac.gin and of mujoco_online.py: rounds of ten whole episodes of the
policy's mean action, until 5,000 steps have been played. It goes on where it stopped, from the last
measurement: with the replay, the parameters and the optimisers of then, with an episode begun anew
and random numbers of their own.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import pathlib
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3.common import logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

ITERATION = 5_000  # environment steps between two measurements, as in mujoco_online.py
EVALUATION = 5_000  # environment steps at the least
COPIES = 10  # episodes in a round
VERSION = 5
LIBRARIES = {'stable_baselines3': 'Stable-Baselines3', 'sbx': 'sbx'}


def make_model(library: str, task: str, seed: int, steps: int, warm_up: int) -> OffPolicyAlgorithm:
  """SAC with the settings of gin_configs/mujoco/online_sac.gin."""
  return importlib.import_module(library).SAC(
    'MlpPolicy',
    gymnasium.make(f'{task}-v{VERSION}'),
    learning_rate=3e-4,
    buffer_size=2 * steps,
    learning_starts=warm_up,
    batch_size=256,
    tau=0.005,
    gamma=0.99,
    train_freq=1,
    gradient_steps=1,
    policy_kwargs={'net_arch': [256, 256]},
    seed=seed,
    device='cpu',
  )


def evaluate(model: OffPolicyAlgorithm, task: str, seed: int, iteration: int) -> np.ndarray:
  """Returns of whole episodes [n] of the policy's mean action, n a multiple of COPIES."""
  copies = [gymnasium.make(f'{task}-v{VERSION}') for _ in range(COPIES)]
  seeds = np.random.default_rng([seed, iteration])
  returns: list[float] = []
  played = 0
  while played < EVALUATION:
    observations = np.stack([c.reset(seed=int(seeds.integers(2**31)))[0] for c in copies])
    totals, running = np.zeros(COPIES), list(range(COPIES))
    while running:
      actions, _ = model.predict(observations, deterministic=True)
      for e in running.copy():
        observations[e], reward, terminated, truncated, _ = copies[e].step(actions[e])
        totals[e] += float(reward)
        played += 1
        if terminated or truncated:
          running.remove(e)
    returns += totals.tolist()
  for copy in copies:
    copy.close()
  return np.asarray(returns)


def save(model: OffPolicyAlgorithm, row: dict, directory: pathlib.Path) -> None:
  """Writes what the next start goes on from; the old one stays until the new one is whole."""
  name = f'state_{row["iteration"]}'
  model.save(directory / f'{name}.zip')
  model.save_replay_buffer(directory / f'{name}.pkl')
  temporary = directory / 'last.json.tmp'
  temporary.write_text(json.dumps(row))
  os.replace(temporary, directory / 'last.json')
  for old in directory.glob('state_*'):
    if old.stem != name:
      old.unlink()


def main() -> None:
  """Trains, measures and writes a row each time."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--library', default='stable_baselines3', choices=LIBRARIES)
  parser.add_argument('--task', default='Hopper', choices=['Ant', 'HalfCheetah', 'Hopper'])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--steps', type=int, default=100_000)
  parser.add_argument('--iteration', type=int, default=ITERATION, help='steps between two rows')
  parser.add_argument('--warm_up', type=int, default=10_000, help='steps at random')
  parser.add_argument('--output', default='runs/mujoco_online')
  options = parser.parse_args()
  torch.set_num_threads(1)
  place = pathlib.Path(
    options.output, 'peers', options.library, options.task, f'seed_{options.seed}'
  )
  place.mkdir(parents=True, exist_ok=True)
  curve, last = place / 'curve.csv', place / 'last.json'
  rows = []
  model = make_model(options.library, options.task, options.seed, options.steps, options.warm_up)
  if last.exists():
    begun = json.loads(last.read_text())
    with curve.open(newline='') as file:
      rows = [r for r in csv.DictReader(file) if int(r['iteration']) <= begun['iteration']]
    model = type(model).load(place / f'state_{begun["iteration"]}.zip', env=model.env, device='cpu')
    model.load_replay_buffer(place / f'state_{begun["iteration"]}.pkl')
    model.set_random_seed(options.seed + model.num_timesteps)
  model.set_logger(logger.configure(None, []))
  while model.num_timesteps < options.steps:
    start = time.perf_counter()
    done, updates = model.num_timesteps, model._n_updates
    model.learn(options.iteration, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    iteration = model.num_timesteps // options.iteration - 1
    returns = evaluate(model, options.task, options.seed, iteration)
    row = {
      'variant': f'{LIBRARIES[options.library]}, n = 1',
      'game': options.task,
      'seed': options.seed,
      'iteration': iteration,
      'environment_steps': model.num_timesteps,
      'updates': model._n_updates,
      'eval_return': round(float(returns.mean()), 3),
      'eval_return_std': round(float(returns.std()), 3),
      'steps_per_second': round((model.num_timesteps - done) / seconds, 3),
      'updates_per_second': round((model._n_updates - updates) / seconds, 3),
    }
    rows.append(row)
    with curve.open('w', newline='') as file:
      writer = csv.DictWriter(file, row, lineterminator='\n')
      writer.writeheader()
      writer.writerows(rows)
    save(model, row, place)
    print(row, flush=True)


if __name__ == '__main__':
  main()
