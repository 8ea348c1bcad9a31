"""Behaviour cloning: imitates the policy that made the data."""

from __future__ import annotations

import functools
from typing import ClassVar

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.losses import behaviour_cloning_loss
from implicit_rl.types import Loss


@gin.configurable
class BehaviourCloningAgent(Agent):
  """Classifies the logged action; `q_values` are its logits. Every knob is `Agent.*` in gin."""

  estimates_values: ClassVar[bool] = False

  def make_loss(self) -> Loss:
    """Returns the cross-entropy loss."""
    return functools.partial(behaviour_cloning_loss, apply=self.apply)
