"""Measures srank of a Stable-Baselines3 network, and keeps its features for the tests.

    pip install torch stable-baselines3
    python experiments/torch_features.py --output=tests/data/torch_features.npz

PyTorch from PyPI brings 2.8 GB of wheels, too much for a test's sake: this script is run by hand
and the tests read what it wrote: the features, and their spectrum, by PyTorch in float64.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import stable_baselines3
import torch

from implicit_rl import rank


def main() -> None:
  """Trains DQN on CartPole for a moment, measures its features, writes both."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='tests/data/torch_features.npz', type=pathlib.Path)
  parser.add_argument('--steps', default=5000, type=int, help='environment steps of training')
  options = parser.parse_args()
  torch.set_num_threads(1)
  model = stable_baselines3.DQN(
    'MlpPolicy', 'CartPole-v1', learning_starts=500, seed=0, device='cpu'
  )
  model.learn(options.steps)
  states = model.replay_buffer.sample(512).observations  # [512, 4]

  with torch.no_grad():
    features = model.q_net.q_net[:-1](states)  # [512, 64]: all layers but the last
  print('srank', float(rank.srank(features)))

  values = torch.linalg.svdvals(features.double())
  above = torch.cumsum(values, 0) / values.sum() >= 0.99
  print('srank by PyTorch', int(above.int().argmax()) + 1)
  np.savez_compressed(
    options.output,
    features=features.numpy(),
    singular_values=values.numpy(),
    made_with=f'torch {torch.__version__}, stable-baselines3 {stable_baselines3.__version__}',
  )


if __name__ == '__main__':
  main()
