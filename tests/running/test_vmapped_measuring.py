"""Seeds measured side by side get the numbers of `Agent.measure`, each with a memory of its own."""

import dataclasses
import functools
from typing import ClassVar

import jax
import numpy as np
import pytest

from implicit_rl.agents.base import Agent
from implicit_rl.agents.behaviour_cloning import BehaviourCloningAgent
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.diagnostics.churn import Churn
from implicit_rl.diagnostics.dormancy import Dormancy
from implicit_rl.diagnostics.held_out import HeldOutError
from implicit_rl.diagnostics.norms import Norms
from implicit_rl.logs import jsonl
from implicit_rl.running.vmapped_measuring import VmappedMeasuring
from tests.agents.test_value_agents import make, stored
from tests.command_line import launch, run
from tests.running import test_vmapped_online_seeds as online

DIAGNOSTICS = {
  'churn': Churn(updates=2, batch_size=8),
  'dormancy': Dormancy(threshold=0.9),  # Which some units of fresh networks are below.
  'held_out': HeldOutError(),
  'norms': Norms(),  # In NumPy, not compiled.
}


def agents_of(kind, diagnostics=DIAGNOSTICS):
  source = functools.partial(stored, held_out=0.2)
  return [make(kind, seed=seed, source=source, diagnostics=diagnostics) for seed in (3, 4, 5)]


def joint(measuring, agents, iteration):
  """Measures all agents side by side and has each remember its part."""
  batches = [agent.source.fixed_batch(64) for agent in agents]
  found = measuring.measure(range(len(agents)), batches, iteration)
  for agent, (_, remembered) in zip(agents, found, strict=True):
    agent.measurements.load_state_dict(remembered)
  return [measured for measured, _ in found]


@pytest.mark.exhaustive
def test_all_measures_of_each_seed_are_those_of_the_agent_alone():
  together, alone = agents_of(DQNAgent), agents_of(DQNAgent)
  measuring = VmappedMeasuring(together)
  for iteration in range(2):
    for agent in (*together, *alone):
      agent.train(20)
    found = joint(measuring, together, iteration)
    for own, agent in zip(found, alone, strict=True):
      expected = agent.measure(agent.source.fixed_batch(64), iteration)
      assert own.keys() == expected.keys()
      for name, value in own.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=2e-6, err_msg=name)
    # The second time dormant units are compared with those of the first.
    overlap = next(name for name in found[0] if 'overlap' in name)
    assert all(np.isnan(own[overlap]) for own in found) == (iteration == 0)
    assert found[0]['srank'] > 1 and found[0]['held_out_td_error'] != found[1]['held_out_td_error']
    assert not np.array_equal(found[0]['singular_values'], found[1]['singular_values'])


def test_a_place_is_measured_alike_whoever_holds_the_others_and_no_agent_is_changed():
  agents = agents_of(BehaviourCloningAgent, {'dormancy': Dormancy()})
  measuring = VmappedMeasuring(agents)
  batches = [agent.source.fixed_batch(64) for agent in agents]
  before = [jax.tree.map(np.asarray, agent.state) for agent in agents]
  every = measuring.measure((0, 1, 2), batches, 0)
  some = measuring.measure((1, 1, 1), [batches[1]] * 3, 0)
  jax.tree.map(np.testing.assert_array_equal, some[1], every[1])
  assert all(np.isnan(measured['q_data_gap']) for measured, _ in every)  # Of values alone.
  assert all(not agent.measurements.state_dict() for agent in agents)
  jax.tree.map(np.testing.assert_array_equal, [agent.state for agent in agents], before)


@dataclasses.dataclass(frozen=True)
class _Traced(Diagnostic):
  """Counts how often it is traced."""

  seen: ClassVar[list] = []

  def measure(self, context, state, batch, key):
    self.seen.append(jax.typeof(batch.reward).shape)
    return {'mean_reward': batch.reward.mean()}


def test_a_diagnostic_sees_one_seed_and_is_compiled_once_for_all():
  agents = agents_of(DQNAgent, {'traced': _Traced()})
  measuring = VmappedMeasuring(agents)
  for iteration in range(2):
    joint(measuring, agents, iteration)
  assert _Traced.seen == [(64,)]


@pytest.mark.exhaustive
def test_runs_side_by_side_measure_all_seeds_at_once(tmp_path, monkeypatch):
  """And write the spectra of separate runs."""
  calls, measure = [], Agent.measure

  def counted(agent, batch, *arguments):
    calls.append(np.shape(batch.reward))
    return measure(agent, batch, *arguments)

  monkeypatch.setattr(Agent, 'measure', counted)
  settings = online.SETTINGS | {
    'OnlineRunner.num_iterations': 2,
    'OnlineRunner.training_steps': 60,
  }
  both = {'OnlineRunner.num_seeds': 2, 'OnlineRunner.seeds_as': "'vmap'"}
  launch(tmp_path / 'both', online.GRIDWORLD, seed=5, **settings, **both)
  assert calls == [(2, 16)] * 2
  run(tmp_path / 'alone', online.GRIDWORLD, seed=6, **settings)
  assert calls[2:] == [(16,)] * 2
  paths = [tmp_path / name / 'spectra.jsonl' for name in ('both/seed_6', 'alone')]
  for own, expected in zip(*map(jsonl.read, paths), strict=True):
    assert own.keys() == expected.keys() and len(own['singular_values']) == 16
    for name, value in own.items():
      np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
