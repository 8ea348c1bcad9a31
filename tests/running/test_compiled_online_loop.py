"""The compiled loop: counts, what it stores, what it learns from, time limits."""

import fractions
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.agents.schedules import linearly_decaying_epsilon, update_rate, updates_due
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.networks import MLP
from implicit_rl.running.compiled_online_loop import OnlineLoop
from tests.cases import cases

E = 4


def make(game='Breakout', n=0.5, limit=None, capacity=400, prioritized=False, **settings):
  environment = MinAtarEnvironment(game, max_steps_per_episode=limit)
  agent = DQNAgent(
    environment.num_actions,
    environment.observation_shape,
    environment.observation_dtype,
    1,
    source=functools.partial(
      DeviceReplay, capacity=capacity, num_environments=E, prioritized=prioritized
    ),
    network=MLP,
    **{'updates_per_step': n, 'min_replay_history': 40, 'epsilon_decay_period': 100} | settings,
  )
  return agent, OnlineLoop(agent, environment, keep_observations=True)


@pytest.mark.parametrize('n', [0.25, 0.3, 1, 16, 0])
def test_updates_due_are_exact(n):
  rate = update_rate(n)
  assert rate == fractions.Fraction(str(n))
  steps = [0, 1, 39, 40, 41, 47, 1000, 100_000_000]
  got = [int(updates_due(rate, 40, jnp.int32(s))) for s in steps]
  assert got == [max(0, int((s - 40) * rate)) for s in steps]
  primed = [int(updates_due(rate, 40, jnp.int32(s), priming=7)) for s in steps]
  assert primed == [one + 7 * (s > 40) for one, s in zip(got, steps, strict=True)]


@pytest.mark.exhaustive
def test_priming_updates_are_done_once_at_the_first_turn_after_the_history():
  agent, loop = make(n=0.25, priming_updates=9)
  counts = []
  for _ in one_by_one(loop, 13):
    counts.append(agent.updates)
  assert counts == [0] * 10 + [10, 11, 12]  # One a turn of four steps, after 40 steps.


def one_by_one(loop, turns):
  """Runs turn after turn, so that one compiled program serves; yields what each reports."""
  for _ in range(turns):
    report = loop.run(E)
    yield report.sums.means(), report.turns


@pytest.mark.parametrize('prioritized', cases(((one,) for one in [False, True]), bool))
def test_counts_stores_and_reports_what_happened(prioritized):
  agent, loop = make(n=0.3, prioritized=prioritized)
  reports = list(one_by_one(loop, 80))
  turns = jax.tree.map(lambda *parts: np.concatenate(parts), *(turn for _, turn in reports))
  assert loop.steps == 320 and agent.updates == int((320 - 40) * 0.3) == 84
  assert [bool(metrics) for metrics, _ in reports[8:14]] == [False, False, True, True, True, True]
  assert reports[-1][0]['Losses/Total'] > 0
  rows = agent.source.memory.rows
  for name in ('observation', 'action', 'reward', 'terminal', 'episode_end'):
    np.testing.assert_array_equal(getattr(rows, name)[:80], getattr(turns, name), err_msg=name)
  assert turns.episode_end.any()
  for stream in range(E):
    ends = np.flatnonzero(turns.episode_end[:, stream])
    starts = np.append(0, ends[:-1] + 1)
    for start, end in zip(starts, ends, strict=False):
      assert turns.episode_length[end, stream] == end + 1 - start
      assert turns.episode_return[end, stream] == turns.reward[start : end + 1, stream].sum()
      np.testing.assert_array_equal(rows.episode_start[start : end + 1, stream], start)
  # Breakout has two courses: every episode begins with one of two observations.
  first = np.concatenate(
    [turns.observation[:1].reshape(-1, 10, 10, 4), turns.observation[1:][turns.episode_end[:-1]]]
  )
  assert len({observation.tobytes() for observation in first}) == 2 < len(first)
  if not prioritized:
    check_updates(agent, loop)


def check_updates(agent, loop):
  """An update in the loop is the learner's, on the batch that the source draws for it."""
  checked = 0
  while checked < 3:
    before = jax.tree.map(np.asarray, agent.state)
    loop.run(E)
    if agent.updates != int(before.updates) + 1:
      continue
    batch = jax.tree.map(lambda x: x[0], agent.source.sample(int(before.updates), 1, 32))
    expected, _ = agent.learner.update(jax.tree.map(jnp.asarray, before), batch)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      agent.state.params,
      expected.params,
    )
    checked += 1


def test_a_time_limit_ends_the_episode_but_is_not_terminal():
  agent, loop = make(limit=5)  # Too few steps for the ball to be lost.
  turns = [turn for _, turn in one_by_one(loop, 15)]
  turns = jax.tree.map(lambda *parts: np.concatenate(parts), *turns)
  assert not turns.terminal.any()
  np.testing.assert_array_equal(np.flatnonzero(turns.episode_end[:, 0]), [4, 9, 14])
  # The last row of each cut episode has no next state and is never drawn.
  assert len(agent.source) == (15 - 3) * E


def test_exploration_follows_dopamines_schedule():
  _, loop = make(epsilon_train=0.05)
  for steps in (0, 40, 41, 90, 140, 1000):
    expected = linearly_decaying_epsilon(steps, 40, 100, 0.05)
    np.testing.assert_allclose(loop._epsilon(steps), expected, rtol=1e-5)


def test_steps_that_are_no_multiple_are_refused():
  with pytest.raises(ValueError, match=r'training_steps \(41\).*num_environments'):
    make()[1].run(41)
