"""Every notebook is kept with its outputs, and runs top to bottom in a kernel of its own."""

import base64
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cases import cases

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
MOST_BYTES = 300_000  # of a picture


def outputs(notebook):
  """All outputs of the notebook's code cells."""
  return [output for cell in notebook.cells for output in cell.get('outputs', [])]


def printed(notebook):
  """Everything that the cells wrote to standard output."""
  return ''.join(output.text for output in outputs(notebook) if output.get('name') == 'stdout')


def pictures(notebook):
  """The notebook's figures, as PNG."""
  data = (output.get('data', {}) for output in outputs(notebook))
  return [base64.b64decode(each['image/png']) for each in data if 'image/png' in each]


def check_results(notebook):
  """What the text says: srank falls, the numerical rank does not; the penalty lowers σ_max."""
  assert pictures(notebook)
  table = [line.split() for line in printed(notebook).splitlines()[:4]]
  srank, numerical = (
    [int(row[row.index(name) + 1]) for row in table] for name in ('srank', 'rank')
  )
  assert srank == sorted(srank, reverse=True) and srank[-1] < 100 < srank[0]
  assert min(numerical) == 128
  largest = [
    float(line.split('σ_max')[1].split()[0])
    for line in printed(notebook).splitlines()
    if line.startswith('DQN')
  ]
  assert largest[1] < 0.5 * largest[0]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_show_the_results(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  check_results(notebook)
  assert not [output for output in outputs(notebook) if output.get('name') == 'stderr']
  assert not re.search(r'(^|[\s\'"])(/\w+){2}|site-packages', printed(notebook))  # a path
  for picture in pictures(notebook):
    assert picture[:4] == b'\x89PNG' and len(picture) <= MOST_BYTES


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_its_first_code_cell_installs_the_package_in_colab(path):
  notebook = nbformat.read(path, as_version=4)
  first = next(cell.source for cell in notebook.cells if cell.cell_type == 'code')
  for expected in ('%pip install', 'make wheels', '/content/implicit_rl-*.whl', 'git+'):
    assert expected in first


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of the kernel's own libraries.
@pytest.mark.parametrize(
  'path',
  cases(((path,) for path in NOTEBOOKS), lambda path: path.stem != 'rank_collapse'),
  ids=lambda path: path.stem,
)
def test_it_runs_top_to_bottom(path, monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '0')  # It computes much.
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs, cell.execution_count = [], None
  client = NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(ROOT)}})
  client.execute()  # Raises what a cell raised.
  assert 'install' not in printed(notebook)
  check_results(notebook)
