"""The value agents: gin names, heads, FQE's policies, what Monte Carlo asks its source."""

import functools

import gin
import jax
import numpy as np
import pytest

from implicit_rl import heads, losses
from implicit_rl.agents import (
  behaviour_cloning,
  c51,
  cql,
  dqn,
  fqe,
  monte_carlo,
  qr_dqn,
  rainbow,
  rem,
  target_ranges,
)
from implicit_rl.data import source, transitions
from implicit_rl.data.replay.online_replay import OnlineReplay
from implicit_rl.data.store import frame_store
from implicit_rl.logs import checkpoints
from implicit_rl.networks import MLP
from tests.cases import cases

SHAPE, A = (3,), 3
NETWORK = functools.partial(MLP, hidden_units=(8,))
AGENTS = [
  behaviour_cloning.BehaviourCloningAgent,
  c51.C51Agent,
  cql.CQLAgent,
  functools.partial(cql.CQLAgent, head='c51'),
  functools.partial(cql.CQLAgent, head='quantile', double=True),
  dqn.DQNAgent,
  fqe.FQEAgent,
  monte_carlo.MonteCarloAgent,
  qr_dqn.QRDQNAgent,
  rainbow.RainbowAgent,
  rem.REMAgent,
  functools.partial(rainbow.RainbowAgent, double=True, dueling=True, noisy=True),
]


def stored(*, return_to_go=False, observation_shape, observation_dtype, **settings):
  """An offline source of random transitions in episodes of 10."""
  rng = np.random.default_rng(0)
  end = np.arange(200) % 10 == 9
  reward = rng.normal(size=200)
  returns = transitions.returns_to_go(reward, end, end, settings['gamma'])
  return source.StoredSource(
    transitions.make_columns(rng.integers(0, A, 200), reward, end, end),
    frame_store.RawFrames(rng.normal(size=(200, *observation_shape)).astype(observation_dtype)),
    return_to_go=returns if return_to_go else None,
    **settings,
  )


def make(agent, **settings):
  arguments = {'source': stored, 'network': NETWORK, 'batch_size': 8} | settings
  return agent(A, SHAPE, np.float32, 2, **arguments)


# A loss of each form; the rest differ by their targets, which tests of losses compare.
SOME = [4, 6]


@pytest.mark.parametrize(
  'agent', cases(((agent,) for agent in AGENTS), lambda agent: AGENTS.index(agent) in SOME)
)
def test_trains_measures_acts_and_restores(agent):
  made = make(agent)
  before = jax.tree.map(np.asarray, made.state.params)
  metrics = made.train(3)
  assert made.updates == 3
  assert any(name.startswith('Losses/') and name != 'Losses/Total' for name in metrics)
  assert all(np.isfinite(value) for value in metrics.values())
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, made.state.params)
  assert all(jax.tree.leaves(changed)), 'every parameter is trained'
  measured = made.measure(made.source.fixed_batch(32))
  assert np.isfinite(measured['td_error']) and 1 <= measured['srank'] <= 8
  states = made.source.fixed_batch(5).state
  actions = made.select_actions(made.state.params, states, jax.random.PRNGKey(0), 0.0)
  greedy = np.argmax(made.apply(made.state.params, states).q_values, 1)
  np.testing.assert_array_equal(actions, greedy)

  other = make(agent, seed=1)
  other.unbundle('unused', 0, made.bundle_and_checkpoint('unused', 0))
  jax.tree.map(np.testing.assert_array_equal, made.state, other.state)


def test_cql_with_weight_zero_learns_what_dqn_learns():
  one, other = make(functools.partial(cql.CQLAgent, weight=0.0)), make(dqn.DQNAgent)
  one.train(20)
  other.train(20)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
    one.state.params,
    other.state.params,
  )


def test_gin_names_are_unambiguous_beside_dopamines_agents():
  """With Dopamine's agents imported, the names in our gin files still mean ours."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.agents.dqn import dqn_agent  # noqa: F401
  from dopamine.jax.agents.full_rainbow import full_rainbow_agent  # noqa: F401
  from dopamine.jax.agents.quantile import quantile_agent  # noqa: F401
  from dopamine.jax.agents.rainbow import rainbow_agent  # noqa: F401

  for name, expected in {
    'behaviour_cloning.BehaviourCloningAgent': behaviour_cloning.BehaviourCloningAgent,
    'c51.C51Agent': c51.C51Agent,
    'cql.CQLAgent': cql.CQLAgent,
    'dqn.DQNAgent': dqn.DQNAgent,
    'fqe.FQEAgent': fqe.FQEAgent,
    'monte_carlo.MonteCarloAgent': monte_carlo.MonteCarloAgent,
    'qr_dqn.QRDQNAgent': qr_dqn.QRDQNAgent,
    'rainbow.RainbowAgent': rainbow.RainbowAgent,
    'rem.REMAgent': rem.REMAgent,
    'heads.C51Head': heads.C51Head,
    'heads.QHead': heads.QHead,
    'heads.QuantileHead': heads.QuantileHead,
  }.items():
    assert gin.get_configurable(name).__name__ == expected.__name__
    assert gin.get_configurable(name).__module__ == expected.__module__


def test_gin_reaches_the_heads_of_agents():
  with gin.unlock_config():
    gin.parse_config("""
      heads.C51Head.v_max = 3.0
      heads.C51Head.num_atoms = 11
      heads.QuantileHead.num_quantiles = 4
      rainbow.RainbowAgent.dueling = True
    """)
  assert make(rainbow.RainbowAgent).network.head == heads.C51Head(
    num_atoms=11, v_max=3.0, dueling=True
  )
  assert make(qr_dqn.QRDQNAgent).network.head.num_quantiles == 4


@pytest.mark.parametrize('saved', [dqn.DQNAgent, qr_dqn.QRDQNAgent])
def test_fqe_evaluates_a_saved_agents_policy(saved, tmp_path):
  """The loss equals that of the saved agent's own values, and its checkpoint is left alone."""
  other = make(saved, seed=5)
  other.train(3)
  checkpoints.save(tmp_path / 'checkpoints', 0, {'agent': other.bundle_and_checkpoint('unused', 0)})
  head = heads.QuantileHead() if saved is qr_dqn.QRDQNAgent else None
  made = make(fqe.FQEAgent, policy_dir=str(tmp_path), policy='softmax', policy_head=head, gamma=0.8)
  batch = made.source.fixed_batch(16)
  loss, aux = made.make_loss()(
    made.state.params, made.state.target_params, batch, jax.random.PRNGKey(0)
  )
  q = np.asarray(other.apply(other.state.params, batch.next_state).q_values, np.float64)
  policy = np.exp(q) / np.exp(q).sum(1, keepdims=True)
  q_t = np.asarray(made.apply(made.state.target_params, batch.next_state).q_values)
  target = batch.reward + 0.8 * batch.discount * np.sum(policy * q_t, 1)
  q_tm1 = np.asarray(aux.outputs.q_values)[np.arange(16), batch.action]
  np.testing.assert_allclose(aux.td_error, target - q_tm1, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(loss, np.mean((target - q_tm1) ** 2), rtol=1e-4)
  assert np.isfinite(made.train(2)['Q/Policy'])


def test_fqe_refuses_what_is_no_checkpoint_of_its_network(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
    make(fqe.FQEAgent, policy_dir=str(tmp_path))
  bundle = make(qr_dqn.QRDQNAgent).bundle_and_checkpoint('unused', 0)
  checkpoints.save(tmp_path / 'checkpoints', 0, {'agent': bundle})
  with pytest.raises(ValueError, match=r'QHead.*policy_head'):
    make(fqe.FQEAgent, policy_dir=str(tmp_path))


def test_monte_carlo_asks_its_source_for_returns():
  batch = make(monte_carlo.MonteCarloAgent, gamma=0.5).source.sample(0, 1, 64)
  at_the_end = batch.discount == 0
  assert at_the_end.any()
  np.testing.assert_allclose(batch.return_to_go[at_the_end], batch.reward[at_the_end], rtol=1e-6)
  assert make(dqn.DQNAgent).source.sample(0, 1, 4).return_to_go is None
  with pytest.raises(ValueError, match="OnlineReplay can't compute the returns"):
    make(monte_carlo.MonteCarloAgent, source=OnlineReplay)


@pytest.mark.parametrize(
  ('agent', 'settings', 'message'),
  [
    (cql.CQLAgent, {'weight': -1.0}, 'CQLAgent.weight must be a number of at least 0, got -1.0'),
    (cql.CQLAgent, {'head': 'c52'}, "CQLAgent.head must be 'q', 'c51' or 'quantile', got 'c52'"),
    (rem.REMAgent, {'num_heads': 0}, 'REMAgent.num_heads must be a whole number of at least 1'),
    (qr_dqn.QRDQNAgent, {'kappa': 0}, 'QRDQNAgent.kappa must be a number above 0'),
    (fqe.FQEAgent, {'policy_epsilon': 2}, r'FQEAgent.policy_epsilon must be a number in \[0, 1\]'),
    (
      fqe.FQEAgent,
      {'policy_temperature': 0},
      'policy_temperature must be a number above 0',
    ),
    (fqe.FQEAgent, {'policy': 'gredy'}, "got 'gredy'"),
  ],
)
def test_settings_out_of_range_are_named(agent, settings, message):
  with pytest.raises(ValueError, match=message):
    make(agent, **settings)


OPTIONS = {
  'value_head': heads.HLGaussHead(num_bins=11),
  'munchausen': losses.Munchausen(),
  'target_range': target_ranges.RewardBound(),
}
READS = {
  dqn.DQNAgent: set(OPTIONS),
  cql.CQLAgent: set(OPTIONS),
  fqe.FQEAgent: {'value_head', 'target_range'},
  monte_carlo.MonteCarloAgent: {'value_head'},
  c51.C51Agent: {'target_range'},
  rainbow.RainbowAgent: {'target_range'},
  qr_dqn.QRDQNAgent: {'target_range'},
  rem.REMAgent: {'target_range'},
  behaviour_cloning.BehaviourCloningAgent: set(),
}


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('agent', READS)
def test_an_option_changes_the_loss_or_is_refused(agent, option):
  settings = {option: OPTIONS[option]}
  if option not in READS[agent]:
    message = f'Agent.{option} must be None for {agent.__name__}, whose loss does not use it, got '
    with pytest.raises(ValueError, match=message):
      make(agent, **settings)
    return
  batch = jax.tree.map(lambda x: x[0], make(agent).source.sample(0, 1, 8))
  batch = batch._replace(reward=9 * batch.reward)  # Beyond what rewards in [-1, 1] allow.
  found = []
  for made in (make(agent, gamma=0.5), make(agent, gamma=0.5, **settings)):
    loss, aux = made.make_loss()(made.state.params, made.state.params, batch, jax.random.PRNGKey(0))
    assert np.isfinite(loss)
    found.append((float(loss), set(aux.metrics)))
  assert found[0][0] != found[1][0]
  own = {
    'value_head': 'Targets/BeyondBins',
    'munchausen': 'Munchausen/Bonus',
    'target_range': 'Targets/Clipped',
  }
  assert found[1][1] - found[0][1] == {own[option]}


@pytest.mark.parametrize('head', ['c51', 'quantile'])
@pytest.mark.parametrize('option', ['value_head', 'munchausen'])
def test_cql_on_a_distributional_head_refuses_what_is_for_dqns_loss(head, option):
  with pytest.raises(ValueError, match=f'Agent.{option} must be None for CQLAgent'):
    make(cql.CQLAgent, head=head, **{option: OPTIONS[option]})


def test_targets_lie_in_what_rewards_allow_or_the_data_reached():
  bound = target_ranges.RewardBound
  assert make(dqn.DQNAgent, gamma=0.75, target_range=bound()).target_range == (-4.0, 4.0)
  # An episode may end after a step, so all rewards positive do not raise the least return.
  assert bound(0.5, 1.0).bounds(0.75, None) == (0.5, 4.0)
  made = make(dqn.DQNAgent, gamma=0.5, target_range=target_ranges.DataReturns())
  batch = made.source.sample(0, 1, 4000)
  expected = batch.return_to_go.min(), batch.return_to_go.max()
  np.testing.assert_allclose(made.target_range, expected, rtol=1e-6)
  assert make(dqn.DQNAgent).target_range is None
  assert make(dqn.DQNAgent).source.return_range is None


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'value_head': heads.HLGaussHead}, r'got .*HLGaussHead.*: say @HLGaussHead\(\)'),
    ({'munchausen': 0.9}, 'Agent.munchausen must be a Munchausen or None, got 0.9'),
    ({'target_range': (0, 1)}, r'Agent.target_range must be a TargetRange or None, got \(0, 1\)'),
    ({'munchausen': losses.Munchausen(), 'update_horizon': 3}, 'Agent.update_horizon must be 1'),
    ({'munchausen': losses.Munchausen(), 'double': True}, 'double must be False'),
    ({'target_range': target_ranges.RewardBound(), 'gamma': 1}, 'Agent.gamma must be below 1'),
    ({'target_range': target_ranges.DataReturns(), 'source': OnlineReplay}, "can't compute the"),
  ],
)
def test_options_out_of_place_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    make(dqn.DQNAgent, **settings)


def test_an_empty_reward_range_is_named():
  with pytest.raises(ValueError, match=r'RewardBound\.low must be below'):
    target_ranges.RewardBound(1, 1)
