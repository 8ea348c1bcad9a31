"""All settings of a fitted Q-iteration experiment in the gridworld, checked at creation."""

from __future__ import annotations

import dataclasses

import gin

from implicit_rl.gridworld import mdp

TARGETS = ('bootstrap', 'optimal', 'current_policy', 'policy', 'monte_carlo')
DATA = ('uniform', 'random', 'epsilon_greedy', 'online')
OPTIMIZERS = ('adam', 'sgd', 'rmsprop')
INITIALIZATIONS = ('torch', 'xavier')
CAPACITY = 10_000  # transitions in a dataset or in the replay (Appendix B.2)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FittedQConfig:
  """One experiment, without its seed.

  The paper states size, walls, discount, network, entropy weight and replay. Other settings
  (optimiser, learning rate, batch, action noise, initialisation, observation width) follow the code
  of Fu et al. (2019). The learning rate is their class default 1e-3; their sweeps' 5e-3 is a point
  of the map.

  Attributes:
    target: the regression target. 'bootstrap': r + γ V(s') of the previous iteration's network
      (Q-learning). 'optimal': the exact Q* (the supervised twin). 'current_policy': the exact Q^π
      of the previous iteration's policy (Figure A.11a). 'policy': r + γ E_π Q(s', a') for the
      behaviour policy (fitted Q-evaluation). 'monte_carlo': sampled returns of that policy.
    temperature: entropy weight τ of backup and policy; 0 is the hard maximum with greedy actions.
    clip_targets: clip V(s') to the values that rewards and entropy bonus can reach.
    data: 'uniform' (s, a) pairs; rollouts of a 'random' policy or of an 'epsilon_greedy' one around
      the optimum; 'online': a first-in-first-out replay filled by the learner's own policy.
    data_size: number of transitions in the dataset, or the replay's capacity.
    epsilon: exploration of the 'epsilon_greedy' data, and of online acting at temperature 0.
    env_steps: environment steps per fitting iteration, online.
    iterations: fitting iterations.
    steps: gradient steps per fitting iteration, the T of Algorithm 1.
    batch_size: transitions in a minibatch.
    optimizer: 'adam', 'sgd' or 'rmsprop'.
    learning_rate: its step size.
    reinitialize: draw a new network and optimiser state before each iteration (Figure 4c).
    penalty_weight: α of the penalty L_p(Φ); 0 turns it off.
    hidden_units: widths of the hidden layers; the last is the feature dimension d.
    activation: 'relu', 'tanh', 'gelu' or 'linear'.
    initialization: 'torch': weights and biases uniform in ±1/√fan_in; 'xavier': as `networks.MLP`.
    reward: see `mdp.make_gridworld`.
    observation: see `mdp.make_gridworld`.
    discount: γ.
    world_seed: layout and observations; -1 draws a new world for each seed.
    log_every: fitting iterations between two rows of measures.
  """

  target: str = 'bootstrap'
  temperature: float = 0.1
  clip_targets: bool = False
  data: str = 'uniform'
  data_size: int = CAPACITY  # transitions
  epsilon: float = 0.1
  env_steps: int = 50
  iterations: int = 500
  steps: int = 200  # gradient steps per fitting iteration
  batch_size: int = 128
  optimizer: str = 'adam'
  learning_rate: float = 1e-3
  reinitialize: bool = False
  penalty_weight: float = 0.0
  hidden_units: tuple[int, ...] = (64, 64)
  activation: str = 'relu'
  initialization: str = 'torch'
  reward: str = 'distance'
  observation: str = 'smooth'
  discount: float = 0.95
  world_seed: int = -1
  log_every: int = 10  # fitting iterations

  def __post_init__(self):
    object.__setattr__(self, 'hidden_units', tuple(self.hidden_units))  # gin may pass a list.
    for name, known in (
      ('target', TARGETS),
      ('data', DATA),
      ('optimizer', OPTIMIZERS),
      ('initialization', INITIALIZATIONS),
      ('reward', mdp.REWARDS),
      ('observation', mdp.OBSERVATIONS),
    ):
      if getattr(self, name) not in known:
        raise ValueError(f'Unknown {name} {getattr(self, name)!r}; choose one of {known}.')
    for name in ('data_size', 'env_steps', 'iterations', 'steps', 'batch_size', 'log_every'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 1.')
    for name in ('temperature', 'penalty_weight', 'learning_rate'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} is {getattr(self, name)}; it must not be negative.')
    if self.data_size > CAPACITY:
      raise ValueError(f'data_size is {self.data_size}; arrays hold at most {CAPACITY}.')
    if self.iterations % self.log_every:
      raise ValueError(
        f'iterations ({self.iterations}) must be a multiple of log_every ({self.log_every}).'
      )
    if self.data == 'online' and self.target in ('policy', 'monte_carlo'):
      raise ValueError(f"target {self.target!r} evaluates a fixed policy; data 'online' has none.")
    if not self.hidden_units:
      raise ValueError('hidden_units is empty; features need at least one hidden layer.')
