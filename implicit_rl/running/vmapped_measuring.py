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
  """Measures the agents of several seeds; results equal separate measurements up to rounding.

  A diagnostic that is not compiled still measures the seeds in sequence.

  Args:
    agents: equal except for their seeds.
  """

  def __init__(self, agents: Sequence[Any]):
    self._agents = agents
    # An agent that holds the states of all seeds measures like any other agent.
    self._all = copy.copy(agents[0])
    self._all._measure = jax.jit(jax.vmap(agents[0]._measure))
    self._all.measurements = agents[0].measurements.over_seeds(
      [agent.learner.context.initial for agent in agents]
    )

  def measure(
    self, places: Sequence[int], batches: Sequence[Batch], iteration: int
  ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Measures as many agents as there are; changes none.

    Args:
      places: for each place in the program, the index of the agent that it measures.
      batches: for each place, the transitions [B, ...] to measure the agent on.
      iteration: number of the iteration; see `Agent.measure`.

    Returns:
      For each place the result of `Agent.measure`, as NumPy arrays, and the values that its
      diagnostics remember afterwards, for `Measurements.load_state_dict`.
    """
    everyone = copy.copy(self._all)  # Its state is released after all measurements.
    held = [self._agents[place] for place in places]
    everyone.state = stacked([agent.state for agent in held])
    everyone.measurements.load_state_dict(
      stacked([agent.measurements.state_dict() for agent in held])
    )
    everyone._held_out = lambda size: stacked([agent._held_out(size) for agent in held])
    measured = everyone.measure(stacked(batches), iteration)
    both = jax.tree.map(np.asarray, (measured, everyone.measurements.state_dict()))
    return [jax.tree.map(lambda x, n=n: x[n], both) for n in range(len(held))]
