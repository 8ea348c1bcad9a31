"""Diagnoses two PyTorch DQNs, Stable-Baselines3's and one in a single file as CleanRL's are.

    pip install torch stable-baselines3
    python experiments/torch_diagnosis.py --output=tests/data/torch_diagnosis.npz

Run by hand, as `torch_features.py` is: the tests read the activations that it wrote, and the
documentation shows the lines between the marks.
"""

from __future__ import annotations

import argparse
import copy
import pathlib

import gymnasium
import numpy as np
import stable_baselines3
import torch
from torch import nn

import implicit_rl

STATES = 128


def diagnose_stable_baselines3(steps: int) -> tuple[dict, dict, torch.Tensor]:
  """Trains Stable-Baselines3's DQN and prints its diagnosis."""
  model = stable_baselines3.DQN(
    'MlpPolicy', 'CartPole-v1', learning_starts=500, seed=0, device='cpu'
  )
  untrained = copy.deepcopy(model.q_net)
  model.learn(steps)

  # --- stable_baselines3_dqn.py
  def activations(q_net, states):
    """Activations by layer, and values."""
    layers, x = {}, states
    with torch.no_grad():
      for i, module in enumerate(q_net.q_net):
        x = module(x)
        if isinstance(module, nn.ReLU):
          layers[f'hidden_{i}'] = x
    return layers, x

  states = model.replay_buffer.sample(STATES).observations
  layers, q_values = activations(model.q_net, states)
  diagnosis = implicit_rl.diagnose_features(
    layers,
    q_values=q_values,
    fresh=activations(untrained, states)[0],
    reward_range=(1, 1),
    gamma=model.gamma,
  )
  print(diagnosis)
  # ---
  diagnosis.save('runs/stable_baselines3_dqn.html', "Stable-Baselines3's DQN")
  return layers, activations(untrained, states)[0], q_values


class QNetwork(nn.Module):
  """Two hidden layers and a value for each action."""

  def __init__(self, observations: int, actions: int):
    super().__init__()
    self.network = nn.Sequential(
      nn.Linear(observations, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, actions)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Values [B, A] of observations [B, D]."""
    return self.network(x)


def train(steps: int) -> tuple[QNetwork, dict[str, torch.Tensor], float]:
  """Trains a DQN in one function; returns network, replay and γ."""
  torch.manual_seed(0)
  rng = np.random.default_rng(0)
  environment, gamma = gymnasium.make('CartPole-v1'), 0.99
  q_network, target_network = QNetwork(4, 2), QNetwork(4, 2)
  target_network.load_state_dict(q_network.state_dict())
  optimizer = torch.optim.Adam(q_network.parameters(), lr=2.5e-4)
  rows = {'observations': [], 'actions': [], 'rewards': [], 'next_observations': [], 'dones': []}
  observation, _ = environment.reset(seed=0)
  for step in range(steps):
    if rng.random() < max(0.05, 1 - step / (0.5 * steps)):
      action = int(rng.integers(2))
    else:
      action = int(q_network(torch.as_tensor(observation)[None]).argmax())
    following, reward, terminated, truncated, _ = environment.step(action)
    for name, value in zip(rows, (observation, action, reward, following, terminated), strict=True):
      rows[name].append(value)
    observation = environment.reset()[0] if terminated or truncated else following
    if step < 500 or step % 4:
      continue
    drawn = rng.integers(len(rows['actions']), size=128)
    batch = {name: torch.as_tensor(np.array([c[i] for i in drawn])) for name, c in rows.items()}
    with torch.no_grad():
      best = target_network(batch['next_observations']).max(dim=1).values
      target = batch['rewards'].float() + gamma * best * (~batch['dones']).float()
    chosen = q_network(batch['observations']).gather(1, batch['actions'][:, None])[:, 0]
    loss = nn.functional.mse_loss(target, chosen)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 500 == 0:
      target_network.load_state_dict(q_network.state_dict())
  return q_network, {name: torch.as_tensor(np.array(c)) for name, c in rows.items()}, gamma


def diagnose_single_file(steps: int) -> tuple[dict, torch.Tensor]:
  """Trains the DQN of this file and prints its diagnosis."""
  q_network, replay, gamma = train(steps)
  # --- cleanrl_dqn.py
  layers = {}
  for name, module in q_network.named_modules():
    if isinstance(module, nn.ReLU):
      module.register_forward_hook(
        lambda module, x, activation, name=name: layers.update({name: activation})
      )
  drawn = torch.randint(len(replay['observations']), (STATES,))
  with torch.no_grad():
    q_values = q_network(replay['observations'][drawn])
  diagnosis = implicit_rl.diagnose_features(
    layers, q_values=q_values, reward_range=(1, 1), gamma=gamma
  )
  print(diagnosis)
  # ---
  diagnosis.save('runs/cleanrl_dqn.html', "A DQN in the manner of CleanRL's")
  return layers, q_values


def main() -> None:
  """Diagnoses both and writes what was measured."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='tests/data/torch_diagnosis.npz', type=pathlib.Path)
  parser.add_argument('--steps', default=20_000, type=int, help='environment steps of training')
  options = parser.parse_args()
  torch.set_num_threads(1)
  theirs, fresh, q_values = diagnose_stable_baselines3(options.steps)
  ours, own_values = diagnose_single_file(options.steps)
  arrays = {f'sb3/{name}': value for name, value in theirs.items()}
  arrays |= {f'sb3_fresh/{name}': value for name, value in fresh.items()}
  arrays |= {f'cleanrl/{name}': value for name, value in ours.items()}
  arrays |= {'sb3/q_values': q_values, 'cleanrl/q_values': own_values}
  # By PyTorch, in float64: what the tests compare with.
  for name, phi in (('sb3', list(theirs.values())[-1]), ('cleanrl', list(ours.values())[-1])):
    phi = phi.double()
    arrays[f'{name}/singular_values'] = torch.linalg.svdvals(phi)
    arrays[f'{name}/centred_singular_values'] = torch.linalg.svdvals(phi - phi.mean(0))
    sizes = phi.abs().mean(0)
    arrays[f'{name}/dormant_units'] = (sizes <= 0.025 * sizes.mean()).double().mean()
  np.savez_compressed(
    options.output,
    **{name: value.numpy() for name, value in arrays.items()},
    made_with=f'torch {torch.__version__}, stable-baselines3 {stable_baselines3.__version__}',
  )


if __name__ == '__main__':
  main()
