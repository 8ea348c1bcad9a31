"""Every block of Python in README, CONTRIBUTING.md and docs/ runs in a test."""

import numpy as np
import pytest

from tests.docs_commands import lab, pages
from tests.docs_commands.pages import ROOT

# The first line of a block that other tests run, and what is in the one that does below tests/.
ELSEWHERE = {
  '# my_agent.py': 'test_run_experiment.py',
  '# my_games.py': 'environments/test_own_environment.py',
  '# my_games.gin': 'environments/test_own_environment.py',
  '# my_games_offline.gin': 'environments/test_own_environment.py',
  '# my_network.py': 'diagnosis/test_network.py',
  '# my_penalty.py': 'test_docs.py',
  # PyTorch is not here: these compare the block with the script that was run.
  '# cleanrl_dqn.py': 'diagnosis/test_features.py',
  '# stable_baselines3_dqn.py': 'diagnosis/test_features.py',
  '# torch_features.py': 'test_docs.py',
}
# What a reader has by the time that a block uses it.
NAMES = {
  'features': np.random.default_rng(0).random((64, 16), np.float32),
  'states': np.zeros((3, 1, 10, 10, 4), np.uint8),
}


def blocks():
  """Returns (page, text) of each block of Python that no other test runs."""
  found = []
  for page in pages.PAGES:
    for language, text in pages.code_of(page).blocks:
      if language == 'language-python' and text.partition('\n')[0] not in ELSEWHERE:
        found.append((str(page.relative_to(ROOT)), text))
  return found


BLOCKS = blocks()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  'text', [text for _, text in BLOCKS], ids=[f'{page}-{n}' for n, (page, _) in enumerate(BLOCKS)]
)
def test_a_block_runs(text, lab_folder):
  del lab_folder  # The working directory.
  lab.make_needs([text])
  exec(text, dict(NAMES))


def test_other_tests_run_the_other_blocks():
  every = [text for page in pages.PAGES for _, text in pages.code_of(page).blocks]
  for first, file in ELSEWHERE.items():
    assert any(text.startswith(f'{first}\n') for text in every), first
    assert first.removeprefix('# ') in (ROOT / 'tests' / file).read_text().replace('\\', ''), file
  assert len(BLOCKS) >= 5
