"""Runs of this project are measured after the fact as their logs say, by every way there is."""

import json
import subprocess
import sys

import gin
import numpy as np
import pytest

import implicit_rl
from implicit_rl.diagnostics import __main__ as command
from implicit_rl.logs import jsonl
from tests.command_line import ROOT, run

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
SMALL = {
  'OfflineRunner.num_iterations': 3,
  'OfflineRunner.keep_checkpoints': 2,
  'OfflineRunner.measure_size': 64,
  'TFDSReplay.held_out': 0.1,
  'MinAtarCNN.hidden_units': 8,
}
OWN = '''
"""A reader's own measure."""
import gin
import jax.numpy as jnp
from implicit_rl.diagnostics import Diagnostic


@gin.configurable
class Third(Diagnostic):
  """A number and an array, every third iteration."""

  period = 3

  def measure(self, context, state, batch, key):
    return {'third': jnp.mean(batch.reward), 'thirds': batch.reward[:3]}
'''


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of DQN."""
  base_dir = tmp_path_factory.mktemp('trained') / 'dqn'
  run(base_dir, MINATAR, **SMALL)
  gin.clear_config()
  return base_dir


@pytest.fixture(scope='module')
def own_measure(tmp_path_factory):
  """A file that binds a measure of a module outside the project."""
  folder = tmp_path_factory.mktemp('outside')
  (folder / 'readers_third.py').write_text(OWN)
  (folder / 'third.gin').write_text(
    'import readers_third\nDiagnostics.third = @readers_third.Third()\n'
  )
  sys.path.insert(0, str(folder))
  yield str(folder / 'third.gin')
  sys.path.remove(str(folder))


def assert_logged(found, row, but=()):
  """What was measured is what the run logged, as far as both have it."""
  skipped = ('condition_number', *but)  # The ratio to a σ_min that is rounding.
  names = [name for name in found if row.get(name) is not None and name not in skipped]
  common = 'srank centred_pca_rank td_error q_data_gap loss dormant_units'
  assert set(common.split()) <= set(names)
  for name in names:
    np.testing.assert_allclose(found[name], row[name], rtol=1e-5, atol=1e-5, err_msg=name)
  return names


@pytest.mark.exhaustive
def test_our_agent_by_the_foreign_path_equals_its_log(trained):
  loaded = implicit_rl.load_run(trained)
  agent, batch = loaded.agent, loaded.fixed_batch()
  context = agent.learner.context
  found = implicit_rl.diagnose(
    context.apply,
    loaded.params,
    batch.state,
    actions=batch.action,
    rewards=batch.reward,
    next_states=batch.next_state,
    next_actions=batch.next_action,
    terminals=batch.discount == 0,
    returns=batch.return_to_go,
    gamma=agent.gamma,
    target_params=agent.state.target_params,
    loss=context.loss,
    init=context.init,
    optimizer=context.optimizer,
    optimizer_state=agent.state.optimizer_state,
    key=agent.state.key,
  )
  row = jsonl.read(trained / 'metrics.jsonl')[-1]
  names = assert_logged(found, row, [name for name in row if name.startswith('dormant_overlap')])
  layers = {f'dormant_units/{name}' for name in context.layers}
  assert len(layers) == 2 and layers <= set(names)
  assert set(found.not_measured) == {'held_out'}  # The caller chooses the transitions.
  spectrum = jsonl.read(trained / 'spectra.jsonl')[-1]
  for name in ('singular_values', 'centred_singular_values'):
    np.testing.assert_allclose(found.arrays[name], spectrum[name], rtol=1e-4, atol=1e-5)
  ours = loaded.diagnose()
  for name in ('srank', 'centred_effective_rank', 'sigma_max'):
    assert ours.fresh[name] == pytest.approx(found.fresh[name], rel=1e-5)


def test_every_kept_checkpoint_is_measured_and_compared_with_the_one_before(trained, capsys):
  output = trained.parent / 'found.json'
  before = sorted(trained.rglob('*'))
  assert command.main([str(trained), f'--output={output}']) == 0
  told = capsys.readouterr().out
  assert 'iteration 1' in told and 'iteration 2' in told and 'Plasticity' in told
  (found,) = json.loads(output.read_text()).values()
  assert list(found) == ['iteration 1', 'iteration 2']
  overlaps = []
  for iteration, row in enumerate(jsonl.read(trained / 'metrics.jsonl')[1:], 1):
    scalars = found[f'iteration {iteration}']['scalars']
    overlaps.append({k: v for k, v in scalars.items() if k.startswith('dormant_overlap')})
    names = assert_logged(scalars, row, overlaps[0] if iteration == 1 else ())
    assert {'held_out_td_error', 'dormant_at_start/Dense_0'} <= set(names)
  assert set(overlaps[0].values()) == {None}
  assert sorted(trained.rglob('*')) == before
  assert [one['question'] for one in found['iteration 2']['verdicts']] == [
    'Rank',
    'Plasticity',
    'Values',
  ]


def test_an_added_diagnostic_is_measured_whether_due_or_not(trained, own_measure):
  loaded = implicit_rl.load_run(trained, 1, gin_files=[own_measure])
  found = loaded.diagnose()
  rewards = loaded.fixed_batch().reward
  assert found['third'] == pytest.approx(np.mean(rewards))
  np.testing.assert_allclose(found.arrays['thirds'], rewards[:3])


@pytest.mark.exhaustive
def test_a_page_of_several_runs(trained, own_measure, tmp_path, capsys):
  cloning = tmp_path / 'runs' / 'cloning'
  run(cloning, 'gin_configs/minatar/offline_behaviour_cloning.gin', **SMALL)
  gin.clear_config()
  output = tmp_path / 'page.html'
  arguments = [str(trained), str(tmp_path / 'runs'), '--checkpoint=newest']
  status = command.main([*arguments, f'--gin_files={own_measure}', f'--output={output}'])
  assert status == 0, capsys.readouterr().err
  page = output.read_text()
  for part in (str(trained), str(cloning), 'third', 'dormant_units', 'fresh network'):
    assert part in page
  assert page.count('Rests on:') == 6
  assert 'outputs are not values' in capsys.readouterr().out


def test_the_command_line_ends_in_one_line(trained, tmp_path):
  def refused(*arguments):
    done = subprocess.run(
      [sys.executable, '-m', 'implicit_rl.diagnostics', *map(str, arguments)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    assert done.returncode == 1
    (line,) = [one for one in done.stderr.splitlines() if one.startswith('implicit-rl diagnose')]
    return line

  assert 'does not exist' in refused(tmp_path / 'absent')


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['--checkpoint=0'], 'no checkpoint of iteration 0: it holds 1, 2 and the best'),
    (['--checkpoint=last'], "got 'last'"),
    (['--gin_bindings=Diagnostics.one = @Absent()'], 'No configurable matching'),
    (['--output=found.txt'], '.html, .json'),
  ],
)
def test_wrong_arguments_end_in_one_line(arguments, told, trained, capsys):
  assert command.main([str(trained), *arguments]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('implicit-rl diagnose: ')
  assert told in line
