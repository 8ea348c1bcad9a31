"""Measures the agents of several seeds as one vmapped program for each measurement."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from implicit_rl.running.vmapped_agents import stacked
from implicit_rl.types import Batch


class VmappedMeasuring:
  """Measures what the agents of several seeds measure one after the other, to rounding.

  A diagnostic that is not compiled still measures one seed after the other.

  Args:
    agents: equal except for their seeds.
  """

  def __init__(self, agents: Sequence[Any]):
    self._agents = agents
    # One agent that holds the states of all seeds measures as any agent does.
    self._all = copy.copy(agents[0])
    self._all._measure = jax.jit(jax.vmap(agents[0]._measure))
    self._all.measurements = agents[0].measurements.over_seeds(
      [agent.learner.context.initial for agent in agents]
    )

  def measure(
    self, places: Sequence[int], batches: Sequence[Batch], iteration: int
  ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Measures as many agents as there are; no agent is changed.

    Args:
      places: of each place in the program, the number of the agent that it measures.
      batches: likewise, the transitions [B, ...] to measure it on.
      iteration: number of the iteration; see `Agent.measure`.

    Returns:
      Of each place what `Agent.measure` returns, as NumPy arrays, and what its diagnostics remember
      after it, for `Measurements.load_state_dict`.
    """
    everyone = copy.copy(self._all)  # Its state is let go of when all is measured.
    held = [self._agents[place] for place in places]
    everyone.state = stacked([agent.state for agent in held])
    everyone.measurements.load_state_dict(
      stacked([agent.measurements.state_dict() for agent in held])
    )
    everyone._held_out = lambda size: stacked([agent._held_out(size) for agent in held])
    measured = everyone.measure(stacked(batches), iteration)
    both = jax.tree.map(np.asarray, (measured, everyone.measurements.state_dict()))
    return [jax.tree.map(lambda x, n=n: x[n], both) for n in range(len(held))]
