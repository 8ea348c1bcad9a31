"""Agents: acting, learning online and offline, Dopamine's own Runner, saving, bad settings."""

import fractions
import functools
import math

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl.agents import schedules
from implicit_rl.agents.base import Agent
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.agents.schedules import linearly_decaying_epsilon
from implicit_rl.data.replay.online_replay import OnlineReplay
from implicit_rl.data.replay.prioritized_replay import PrioritizedReplay
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.learner import Learner
from implicit_rl.networks import MLP, MinAtarCNN

SHAPE = (2, 3)


def make_agent(capacity=500, network=MLP, replay=OnlineReplay, **settings):
  return DQNAgent(
    3,
    SHAPE,
    np.float32,
    2,
    source=functools.partial(replay, capacity=capacity),
    network=network,
    **{'min_replay_history': 10, 'batch_size': 4} | settings,
  )


def play(agent, steps, seed=0):
  """Feeds random observations in episodes of 7 steps; returns the actions."""
  rng = np.random.default_rng(seed)
  actions = []
  for step in range(steps):
    observation = rng.normal(size=SHAPE).astype(np.float32)
    if step % 7 == 0:
      actions.append(agent.begin_episode(observation))
    elif step % 7 < 6:
      actions.append(agent.step(rng.normal(), observation))
    else:
      agent.end_episode(rng.normal(), terminal=step % 2 == 0)
  return actions


@pytest.mark.parametrize('n', ['0.25', '1', '4', '0.3', '0.07'])
def test_updates_per_step_are_exact(n):
  agent = make_agent(updates_per_step=float(n))
  counts = []
  for episode in range(25):
    play(agent, 7, seed=episode)  # 6 stored steps
    counts.append(agent.updates)
  exact = fractions.Fraction(n)
  assert agent.source.added == 150
  assert counts == [max(0, math.floor(exact * (steps - 10))) for steps in range(6, 151, 6)]


def test_priming_updates_are_done_once_when_the_history_is_there():
  agent = make_agent(updates_per_step=1, priming_updates=5)
  counts = []
  for episode in range(3):
    play(agent, 7, seed=episode)  # 6 stored steps
    counts.append(agent.updates)
  assert counts == [0, 5 + 2, 5 + 8]  # The history is 10 steps.


def test_update_counts_are_exact_where_floats_round_down():
  """0.29·100 is 28.999… in floats, and 29 in numbers."""
  for n, after, steps, expected in (
    (0.29, 0, 100, 29),
    (0.57, 10, 110, 57),
    (1 / 3, 0, 3, 1),
    (0.0001, 0, 19_999, 1),
    (16, 5, 10**8 + 5, 16 * 10**8),
    (0.29, 10**6, 5, 0),
  ):
    rate = schedules.update_rate(n)
    assert schedules.updates_due(rate, after, steps) == expected
    assert int(schedules.updates_due(rate, after, jnp.int32(steps))) == expected


@pytest.mark.parametrize('n', [1e-9, float('inf'), float('nan'), -1, '0.25', None])
def test_rates_that_cannot_be_counted_exactly_are_refused(n):
  with pytest.raises(ValueError, match=r'updates_per_step .* got'):
    schedules.update_rate(n)


def test_evaluation_neither_stores_nor_learns():
  agent = make_agent(eval_mode=True)
  play(agent, 70)
  assert agent.source.added == 0 and agent.updates == 0


def test_the_stack_is_the_last_observations():
  agent = make_agent(eval_mode=True)
  first, second, third = (np.full(SHAPE, i, np.float32) for i in (1, 2, 3))
  agent.begin_episode(first)
  np.testing.assert_array_equal(agent._stack, [np.zeros(SHAPE), first])
  agent.step(0, second)
  agent.step(0, third)
  np.testing.assert_array_equal(agent._stack, [second, third])
  agent.begin_episode(first)
  np.testing.assert_array_equal(agent._stack, [np.zeros(SHAPE), first])


def test_what_is_stored_is_what_happened():
  """The action stored with an observation is the one chosen for it; ends are told apart."""
  agent = make_agent(min_replay_history=10**6)
  actions = [agent.begin_episode(np.full(SHAPE, 0.0))]
  for i in range(1, 5):
    actions.append(agent.step(i, np.full(SHAPE, i)))
  agent.end_episode(5, terminal=False)
  state = agent.source.state_dict()
  np.testing.assert_array_equal(state['observation'][:, 0, 0], range(5))
  np.testing.assert_array_equal(state['action'], actions)
  np.testing.assert_array_equal(state['reward'], [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(state['terminal'], [False] * 5)
  np.testing.assert_array_equal(state['episode_end'], [False] * 4 + [True])


def test_an_episode_left_unfinished_is_closed_by_the_next():
  agent = make_agent(min_replay_history=10**6)
  agent.begin_episode(np.full(SHAPE, 0.0))
  agent.step(1, np.full(SHAPE, 1.0))
  agent.step(1, np.full(SHAPE, 2.0))
  agent.begin_episode(np.full(SHAPE, 10.0))
  agent.step(1, np.full(SHAPE, 11.0))
  agent.end_episode(1)
  state = agent.source.state_dict()
  np.testing.assert_array_equal(state['observation'][:, 0, 0], [0, 1, 10, 11])
  np.testing.assert_array_equal(state['episode_end'], [False, True, False, True])
  np.testing.assert_array_equal(state['terminal'], [False, False, False, True])


def test_epsilon_of_acting():
  agent = make_agent(epsilon_eval=0.0)
  states = np.random.default_rng(0).normal(size=(2000, 2, *SHAPE)).astype(np.float32)
  greedy = np.argmax(agent.apply(agent.state.params, states).q_values, -1)
  key = jax.random.PRNGKey(0)
  np.testing.assert_array_equal(agent.select_actions(agent.state.params, states, key, 0.0), greedy)
  uniform = np.asarray(agent.select_actions(agent.state.params, states, key, 1.0))
  assert np.abs(np.bincount(uniform, minlength=3) / 2000 - 1 / 3).max() < 0.05
  half = np.asarray(agent.select_actions(agent.state.params, states, key, 0.5))
  assert abs(np.mean(half == greedy) - (0.5 + 0.5 / 3)) < 0.05


def test_epsilon_schedule_equals_dopamines():
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.agents.dqn import dqn_agent

  for step in (0, 99, 100, 101, 350, 600, 601, 10**6):
    expected = dqn_agent.linearly_decaying_epsilon(500, step, 100, 0.01)
    found = linearly_decaying_epsilon(step, warmup=100, period=500, final=0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_same_seed_same_run_and_another_seed_another():
  ends = []
  for seed in (0, 0, 1):
    agent = make_agent(seed=seed)
    actions = play(agent, 140)
    ends.append((actions, np.concatenate([p.ravel() for p in jax.tree.leaves(agent.state.params)])))
  assert ends[0][0] == ends[1][0] != ends[2][0]
  np.testing.assert_array_equal(ends[0][1], ends[1][1])
  assert not np.array_equal(ends[0][1], ends[2][1])


def test_grouping_of_updates_changes_nothing():
  ends = []
  for groups in ([70], [1] * 70, [33, 37]):
    agent = make_agent(min_replay_history=10**6, network=functools.partial(MLP))
    agent.learner._loop = 'dispatch'
    play(agent, 140)
    for k in groups:
      agent.train(k)
    ends.append(agent.state.params)
  for other in ends[1:]:
    jax.tree.map(np.testing.assert_array_equal, ends[0], other)


@pytest.mark.parametrize('replay', [OnlineReplay, PrioritizedReplay])
def test_restored_goes_on_as_uninterrupted(replay):
  straight = make_agent(replay=replay)
  play(straight, 140)
  play(straight, 70, seed=1)

  first = make_agent(replay=replay)
  play(first, 140)
  bundle = first.bundle_and_checkpoint('unused', 0)
  second = make_agent(replay=replay)
  assert second.unbundle('unused', 0, bundle)
  play(second, 70, seed=1)
  jax.tree.map(np.testing.assert_array_equal, straight.state, second.state)
  jax.tree.map(
    np.testing.assert_array_equal, straight.source.state_dict(), second.source.state_dict()
  )


def test_prioritized_replay_remembers_the_error_of_what_it_gave():
  """After one update each drawn transition's priority is its TD error before the update."""
  agent = make_agent(replay=PrioritizedReplay, min_replay_history=10**6)
  play(agent, 140)
  expected = agent.source.sample(0, 1, agent.batch_size)
  batch = jax.tree.map(lambda x: x[0], expected)
  target = agent.state.target_params
  q_t = np.asarray(agent.apply(target, batch.next_state).q_values).max(1)
  q_tm1 = np.asarray(agent.apply(agent.state.params, batch.state).q_values)
  q_tm1 = q_tm1[np.arange(agent.batch_size), batch.action]
  error = np.abs(batch.reward + agent.gamma_n * batch.discount * q_t - q_tm1)
  agent.train_step()
  held = agent.source.state_dict()['priority']
  np.testing.assert_allclose(held[agent.source.state_dict()['drawn'][0]], error, rtol=1e-5)
  assert (held == 1).sum() > 50, 'what was not drawn keeps the priority it came with'


def test_a_bundle_of_another_network_is_refused():
  bundle = make_agent().bundle_and_checkpoint('unused', 4)
  other = make_agent(network=functools.partial(MLP, hidden_units=(8, 8)))
  with pytest.raises(ValueError, match=r'Checkpoint 4 .* network'):
    other.unbundle('unused', 4, bundle)
  deeper = make_agent(network=functools.partial(MLP, hidden_units=(64, 64, 64)))
  with pytest.raises(ValueError, match='another agent or network'):
    deeper.unbundle('unused', 4, bundle)
  assert not other.unbundle('unused', 4, None)


def test_base_settings_reach_a_subclass_through_gin():
  with gin.unlock_config():
    gin.parse_config("""
      Agent.gamma = 0.5
      Agent.update_horizon = 3
      Agent.network = @MLP
    """)
  agent = DQNAgent(3, SHAPE, np.float32, 2)
  assert agent.gamma_n == 0.125
  assert isinstance(agent.network, MLP)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'gamma': 1.5}, r'Agent.gamma must be a number in \[0, 1\], got 1.5'),
    ({'update_horizon': 0}, 'Agent.update_horizon must be a whole number of at least 1'),
    ({'batch_size': 0}, 'Agent.batch_size must be a whole number of at least 1'),
    ({'epsilon_eval': -0.1}, 'Agent.epsilon_eval'),
  ],
)
def test_settings_out_of_range_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    make_agent(**settings)


def test_unknown_settings_are_refused():
  with pytest.raises(TypeError, match='gama'):
    make_agent(gama=0.9)


def test_an_agent_without_a_loss_or_data_says_so():
  with pytest.raises(NotImplementedError, match='make_loss'):
    Agent(3, SHAPE, np.float32, 2, network=MLP)
  with pytest.raises(ValueError, match='no data source'):
    DQNAgent(3, SHAPE, np.float32, 2, network=MLP).train(1)


def test_actions_beyond_the_environments_are_refused():
  def source(**settings):
    replay = OnlineReplay(**settings, capacity=10)
    replay.add(np.zeros(SHAPE), 5, 0.0, False)
    return replay

  with pytest.raises(ValueError, match=r'action 5.*has 3'):
    DQNAgent(3, SHAPE, np.float32, 2, network=MLP, source=source)


def test_a_source_that_lacks_something_is_refused():
  class Source:
    def sample(self):
      """Not enough."""

  with pytest.raises(ValueError, match=r'Source lacks .*fixed_batch.*Subclass .*DataSource'):
    DQNAgent(3, SHAPE, np.float32, 2, network=MLP, source=lambda **_: Source())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_dopamines_own_runner_drives_our_agent(tmp_path):
  """Dopamine's Runner, unmodified: train, evaluate, log, checkpoint, resume."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.discrete_domains import run_experiment

  made = []

  def create_agent(sess, environment, summary_writer=None):
    del sess
    made.append(
      DQNAgent(
        environment.action_space.n,
        environment.observation_shape,
        environment.observation_dtype,
        environment.stack_size,
        source=functools.partial(OnlineReplay, capacity=2000),
        network=MinAtarCNN,
        min_replay_history=100,
        updates_per_step=0.5,
        learner=functools.partial(Learner, optimizer=optax.adam(1e-3)),
        summary_writer=summary_writer,
      )
    )
    return made[-1]

  def run(iterations):
    run_experiment.Runner(
      str(tmp_path),
      create_agent,
      lambda: MinAtarEnvironment('Breakout'),
      num_iterations=iterations,
      training_steps=300,
      evaluation_steps=100,
      max_steps_per_episode=1000,
    ).run_experiment()
    return made[-1]

  agent = run(2)
  assert agent.source.added >= 600
  assert agent.updates == int((agent.source.added - 100) * 0.5)
  assert (tmp_path / 'logs' / 'log_1').exists()
  updates = agent.updates
  resumed = run(3)
  assert resumed.updates > updates
  assert resumed.source.added >= agent.source.added + 300
