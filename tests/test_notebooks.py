"""Every notebook runs top to bottom in a kernel of its own, and is kept without outputs."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


def printed(notebook):
  """All that the cells wrote to standard output."""
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
  return ''.join(output.text for output in outputs if output.get('name') == 'stdout')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of the kernel's own libraries.
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_top_to_bottom(path, monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '0')  # It computes much.
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert not any(cell.outputs or cell.execution_count for cell in code)
  client = NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(ROOT)}})
  client.execute()  # Raises what a cell raised.
  assert 'install' not in printed(notebook)
  figures = [
    output for cell in code for output in cell.outputs if 'image/png' in output.get('data', {})
  ]
  assert figures
  # What its text says: srank falls, the numerical rank does not; the penalty lowers σ_max.
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
