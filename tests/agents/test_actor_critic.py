"""SAC and continuous CQL agents: acting, kinds of data, settings, and resuming an online run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl.agents.continuous_cql import ContinuousCQLAgent
from implicit_rl.agents.sac import SACAgent
from implicit_rl.data.replay.online_replay import OnlineReplay
from implicit_rl.data.sources.tfds_replay import TFDSReplay
from implicit_rl.data.sources.vector_replay import VectorReplay
from implicit_rl.networks import ActorCritic
from implicit_rl.optimizers import actor_critic_adam
from tests.command_line import run, strip_speed

ONLINE = 'gin_configs/mujoco/online_sac.gin'
NETWORK = functools.partial(ActorCritic, hidden_units=(16, 8))


def make(agent=SACAgent, source=None, **settings):
  return agent(
    3,
    (11,),
    np.float32,
    1,
    source,
    network=NETWORK,
    batch_size=4,
    **({'min_replay_history': 5, 'updates_per_step': 1} | settings),
  )


def test_it_acts_at_random_then_by_its_policy_and_evaluates_by_its_mean():
  agent = make(source=functools.partial(OnlineReplay, capacity=100))
  rng = np.random.default_rng(0)
  actions = [agent.begin_episode(rng.normal(size=11))]
  for _ in range(7):
    assert agent.epsilon == float(agent._steps < 5)
    actions.append(agent.step(1.0, rng.normal(size=11)))
  agent.end_episode(1.0, terminal=False)
  assert agent.updates == 3 and agent.source.added == 8 and len(agent.source) == 7
  assert all(a.shape == (3,) and a.dtype == np.float32 and np.abs(a).max() <= 1 for a in actions)
  np.testing.assert_array_equal(agent.source.rows(0, 8)['action'][0], actions)

  states = rng.normal(scale=0.1, size=(500, 1, 11)).astype(np.float32)
  choose = jax.jit(agent.select_actions)
  uniform = np.asarray(choose(agent.state.params, states, jax.random.PRNGKey(1), 1.0))
  assert abs(uniform.mean()) < 0.05 and abs(uniform.std() - 3**-0.5) < 0.03
  drawn = np.asarray(choose(agent.state.params, states, jax.random.PRNGKey(1), 0.0))
  gaussian = agent.apply(agent.state.params, states, method='actor')
  score = (np.arctanh(drawn.astype(np.float64)) - gaussian.mean) / np.exp(gaussian.log_std)
  assert abs(score.mean()) < 0.1 and abs(score.std() - 1) < 0.1

  agent.eval_mode = True
  found = agent.begin_episode(states[0, 0])
  np.testing.assert_allclose(found, np.tanh(np.asarray(gaussian.mean[0])), rtol=1e-4, atol=1e-6)
  assert agent.source.added == 8


def test_data_of_numbered_actions_is_refused():
  with pytest.raises(ValueError, match='TFDSReplay holds discrete actions'):
    make(source=TFDSReplay)
  with pytest.raises(ValueError, match='at least 0'):
    make(temperature=-1.0)
  with pytest.raises(ValueError, match='num_samples'):
    make(ContinuousCQLAgent, num_samples=0)


@pytest.mark.exhaustive
def test_offline_cql_learns_its_multiplier_and_measures_both_critics(hopper_replay):
  source = functools.partial(VectorReplay, path=hopper_replay)
  agent = make(ContinuousCQLAgent, source, num_samples=2, threshold=-50.0)
  metrics = agent.train(2)
  assert agent.state.params['params']['log_multiplier'] > 0  # The gap is above −50.
  assert {'Losses/TD', 'Losses/CQL', 'Losses/Actor', 'Policy/Entropy'} <= set(metrics)
  measured = agent.measure(agent.source.fixed_batch(32))
  assert measured['srank'] == (measured['srank_1'] + measured['srank_2']) / 2
  singular = [
    np.linalg.svd(np.asarray(phi, np.float64))[1]
    for phi in agent.apply(
      agent.state.params,
      *(agent.source.fixed_batch(32)[i] for i in (0, 1)),
      method='critics',
    ).features
  ]
  np.testing.assert_allclose(
    measured['singular_values'], np.mean(singular, axis=0), rtol=1e-4, atol=1e-5
  )


def test_rates_of_actor_critics_and_scalars():
  """Adam's first step is as long as its rate."""
  params = NETWORK(num_actions=3).init(jax.random.PRNGKey(0), np.zeros((1, 1, 11)))
  optimizer = actor_critic_adam(actor_rate=0.1, critic_rate=0.01, scalar_rate=0.001)
  gradients = jax.tree.map(jnp.ones_like, params)
  changes, _ = optimizer.update(gradients, optimizer.init(params), params)
  expected = {'actor': 0.1, 'critic': 0.01, 'log': 0.001}
  for name, change in changes['params'].items():
    for leaf in jax.tree.leaves(change):
      np.testing.assert_allclose(leaf, -expected[name.split('_')[0]], rtol=1e-4)
  same = actor_critic_adam(0.1, 0.1)
  reference, _ = optax.adam(0.1).update(gradients, optax.adam(0.1).init(params), params)
  jax.tree.map(
    np.testing.assert_array_equal, same.update(gradients, same.init(params), params)[0], reference
  )


def test_an_online_run_resumes_exactly_and_leaves_a_dataset(tmp_path):
  settings = {'OnlineRunner.updates_per_step': 2, 'OnlineRunner.log_replay': True}
  two = {'OnlineRunner.num_iterations': 2}
  straight = run(tmp_path / 'a', ONLINE, **settings, **two)
  run(tmp_path / 'b', ONLINE, **settings)
  resumed = run(tmp_path / 'b', ONLINE, **settings, **two)
  assert strip_speed(resumed) == strip_speed(straight)
  assert [row['updates'] for row in resumed] == [4, 34]  # 2·(15 − 13), 2·(30 − 13)
  source = VectorReplay(path=tmp_path / 'b' / 'replay' / 'mujoco' / 'Hopper_run_1', fraction=1.0)
  described = source.describe()
  assert described['dataset_rows'] == 30 == len(source)  # The six cut episodes' last steps too.
  assert described['terminals'] == 0 and described['dataset_episodes'] == 6
  (first,) = json.loads((tmp_path / 'a' / 'run.json').read_text())['starts']
  assert first['agent'] == 'SACAgent' and first['environment'] == 'Hopper'
