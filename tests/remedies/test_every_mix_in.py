"""Every shipped remedy as a gin file acts and reports; all at once resume as if never interrupted.

A new file below gin_configs/remedies or gin_configs/penalties is found by itself.
"""

import dataclasses
import re
import shutil

import gin
import numpy as np
import pytest

from implicit_rl.logs import checkpoints
from implicit_rl.running import configurables
from tests.command_line import MINATAR_REPLAY, OFFLINE, ONLINE, ROOT, refusal, run
from tests.faults import processes

FILES = [
  str(path.relative_to(ROOT))
  for folder in ('remedies', 'penalties')
  for path in sorted((ROOT / 'gin_configs' / folder).glob('*.gin'))
  if 'Remedies.' in path.read_text()
]
# What a short run needs to reach, where it is not a period.
SOONER = {
  'CChain.warm_up': 3,
  'ContinualBackprop.maturity': 0,
  'ContinualBackprop.rate': 1.0,
  'MagnitudePruning.begin': 0,
  'MagnitudePruning.end': 4,
}
_SMALL = {'MinAtarCNN.hidden_units': 16}
PATHS = {
  'offline': (
    'gin_configs/minatar/offline_dqn.gin',
    OFFLINE
    | _SMALL
    | {
      'OfflineRunner.num_iterations': 2,
      'OfflineRunner.training_steps': 3,
      'OfflineRunner.evaluation_steps': 0,
    },
  ),
  'compiled online': (
    'gin_configs/minatar/online_dqn.gin',
    ONLINE
    | MINATAR_REPLAY
    | _SMALL
    | {'OnlineRunner.num_iterations': 2, 'OnlineRunner.evaluation_steps': 0},
  ),
}


def sooner(gin_file):
  """Bindings that let a remedy act within the first few updates."""
  configurables.load()
  bindings = {}
  for name in re.findall(r'@([\w.]+)\(\)', (ROOT / gin_file).read_text()):
    fields = {field.name for field in dataclasses.fields(gin.get_configurable(name))}
    bindings |= {f'{name}.period': 2} if 'period' in fields else {}
    bindings |= {key: value for key, value in SOONER.items() if key.startswith(f'{name}.')}
  return bindings


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """The last row of a run without a remedy."""
  gin_file, bindings = PATHS['offline']
  return run(tmp_path_factory.mktemp('plain') / 'run', gin_file, **bindings)[-1]


@pytest.mark.slow
@pytest.mark.parametrize('mix_in', FILES)
def test_it_acts_and_reports(mix_in, plain, tmp_path):
  gin_file, bindings = PATHS['offline']
  rows = run(tmp_path, gin_file, mix_in, **bindings | sooner(mix_in))
  assert len(rows) == 2
  own = rows[-1].keys() - plain.keys()
  assert own, 'it reports nothing of its own'
  assert all(np.isfinite(rows[-1][name]) for name in own)
  assert rows[-1]['q_mean'] != plain['q_mean'], 'it changes nothing'


@pytest.mark.slow
@pytest.mark.parametrize('path', PATHS)
def test_all_of_them_at_once_are_resumed_as_if_never_interrupted(path, tmp_path):
  """One run with every remedy: each one's state and draws are in what must agree."""
  gin_file, bindings = PATHS[path]
  for mix_in in FILES:
    bindings = bindings | sooner(mix_in)
  whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
  assert len(run(whole, gin_file, *FILES, **bindings)) == 2
  # As if the run had been killed in its second iteration.
  shutil.copytree(whole, resumed)
  shutil.rmtree(resumed / 'logs', ignore_errors=True)
  (checkpoint,) = (resumed / 'checkpoints').glob('checkpoint_1*')
  checkpoint.unlink()
  assert checkpoints.iterations(resumed / 'checkpoints') == [0]
  run(resumed, gin_file, *FILES, **bindings)
  assert len(processes.rows(resumed)) == 2
  assert processes.rows(resumed) == processes.rows(whole)
  ends = [checkpoints.load_newest(one / 'checkpoints') for one in (whole, resumed)]
  assert ends[0][0] == 1
  assert processes._comparable(ends[0]) == processes._comparable(ends[1])


@pytest.mark.parametrize(
  'agent, mix_in, bindings, said',
  [
    ('dqn', 'dr3', {'DR3.weight': -1.0}, 'DR3.weight must be a number of at least 0, got -1.0.'),
    (
      'dqn',
      'infer',
      {'InFeR.heads': 0},
      'InFeR.heads must be a whole number of at least 1',
    ),
    ('dqn', 'beer', {'Agent.gamma': 0.0}, 'BEER needs Agent.gamma above 0, got 0.0.'),
    ('monte_carlo', 'c_chain', {}, 'CChain.ratio is relative to the metric Losses/TD'),
  ],
)
def test_what_can_not_work_ends_in_one_line_before_training(
  agent, mix_in, bindings, said, tmp_path
):
  files = f'gin_configs/minatar/offline_{agent}.gin', f'gin_configs/remedies/{mix_in}.gin'
  assert said in refusal(tmp_path / 'run', *files, **bindings)
