"""The Atari 2600 games that are installed; loads neither Dopamine nor TensorFlow."""

from __future__ import annotations

import functools

import ale_py
import gymnasium


@functools.cache
def games() -> tuple[str, ...]:
  """Returns the names of the installed games in ALE's spelling ('Pong', 'MsPacman'), sorted."""
  gymnasium.register_envs(ale_py)
  return tuple(
    sorted(
      spec.name
      for spec in gymnasium.registry.values()
      if spec.namespace == 'ALE' and spec.version == 5
    )
  )
