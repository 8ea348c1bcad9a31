"""Runs the compiled online loops of several seeds as one vmapped program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from implicit_rl.data.replay.device_replay import Memory
from implicit_rl.running.compiled_online_loop import (
  LoopKeys,
  LoopReport,
  LoopState,
  OnlineLoop,
  Turns,
)
from implicit_rl.running.vmapped_agents import merged_update, stacked
from implicit_rl.types import LearnerState

# All seeds have equal numbers of updates and steps. With one shared count XLA loops and branches;
# otherwise it would compute for the seed with most, and select.
_AXES: Any = LoopState(
  learner=LearnerState(0, 0, 0, 0, None, 0),  # type: ignore[arg-type]
  memory=Memory(0, None, 0, 0),  # type: ignore[arg-type]
  games=0,  # type: ignore[arg-type]
)


class VmappedLoops:
  """Runs loops in step: environments, replays, priorities and agents of all seeds in one program.

  The program always has a place for each loop, so that a seed's results do not depend on which
  others run with it.

  Args:
    loops: equal except for their seeds and their learnt state.
    differ: whether the numbers in their agents' updates differ.

  Raises:
    DifferentProgramsError: if their updates differ in more than numbers.
  """

  def __init__(self, loops: Sequence[OnlineLoop], differ: bool = False):
    self._loops = loops
    self._update = merged_update([loop.agent for loop in loops]) if differ else None
    self._keys = stacked([loop.keys for loop in loops])
    self._play = jax.jit(self.turns, static_argnames='count', donate_argnames='state')

  def turns(self, state: LoopState, *, count: int) -> tuple[LoopState, Turns, dict[str, jax.Array]]:
    """Plays `count` turns of all seeds and learns; see `OnlineLoop.turns`. Pure."""

    def one(number: jax.Array, keys: LoopKeys, state: LoopState) -> Any:
      update = self._update and functools.partial(self._update, number)
      return self._loops[0].turns(keys, state, count=count, update=update)

    numbers = jnp.arange(len(self._loops))
    return jax.vmap(one, in_axes=(0, 0, _AXES), out_axes=(_AXES, 0, 0))(numbers, self._keys, state)

  def joined(self, places: Iterable[int]) -> LoopState:
    """Returns the states of the loops with these indices as one; equal counts are kept once."""
    states = [self._loops[n].state for n in places]
    state = stacked(states)
    return LoopState(
      state.learner._replace(updates=jnp.copy(states[0].learner.updates)),
      state.memory._replace(added=jnp.copy(states[0].memory.added)),
      state.games,
    )

  def run(
    self, steps: int, progress: Callable[[int], Any], reports: Sequence[LoopReport | None]
  ) -> None:
    """Plays and learns; see `OnlineLoop.run`.

    Args:
      steps: environment steps of each seed.
      progress: called after every compiled call with the steps of one seed in it. If it raises, all
        loops and reports have the state after that call.
      reports: one for each seed, with equal numbers of turns; None leaves a seed out.

    Raises:
      ValueError: if `steps` is not a multiple of the number of parallel environments.
      NonFiniteError: if a metric of any seed is infinite or not a number.
    """
    playing = {n: report for n, report in enumerate(reports) if report is not None}
    first = self._loops[min(playing)]
    calls = list(first.calls(steps, playing[min(playing)].count))
    # The places of the others hold a copy of the first playing one, which is dropped.
    state = self.joined([n if n in playing else min(playing) for n in range(len(reports))])
    for n in playing:  # Frees the arrays that `state` has a copy of.
      self._loops[n].state = LoopState(None, None, None)  # type: ignore[arg-type]
    try:
      for count in calls:
        before = int(state.learner.updates)
        state, turns, metrics = self._play(state, count=count)
        updates = int(state.learner.updates) - before
        for n, report in playing.items():
          own_turns, own_metrics = jax.tree.map(lambda x, n=n: x[n], (turns, metrics))
          report.add(own_turns, own_metrics, updates, before)
        progress(count * first.num_environments)
    finally:
      for n in playing:
        self._loops[n].state = _part(state, n)


def _part(state: LoopState, seed: int) -> LoopState:
  """Returns the state of one seed, in its own buffers."""
  learner, memory, games = state
  own = lambda tree: jax.tree.map(lambda x: x[seed], tree)
  return LoopState(
    learner._replace(
      params=own(learner.params),
      target_params=own(learner.target_params),
      optimizer_state=own(learner.optimizer_state),
      key=own(learner.key),
      updates=jnp.copy(learner.updates),
      extra=own(learner.extra),
    ),
    memory._replace(
      rows=own(memory.rows),
      added=jnp.copy(memory.added),
      current_start=own(memory.current_start),
      priorities=own(memory.priorities),
    ),
    own(games),
  )
