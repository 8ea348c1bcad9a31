"""The layout: rooms import downwards only, without circles, and the pure ones load little."""

import ast
import graphlib
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent

# From the ground up. A room is a package's folder or a module beside it; programs, which nothing
# imports, stand above all of them.
FLOORS = (
  'types sharding cpu compat normalisations regimes',
  'eigensolvers',
  'context layers layer_graph losses environments optimizers rank logs',
  'heads',
  'remedies diagnostics metrics data analysis theory',
  'networks learner diagnosis',
  'agents gridworld simba soft_moe',
  'running',
  'sweep measure_device demo train configs cli reuse __init__',
  'leaderboard',
  '__main__',
)


class Import(NamedTuple):
  """One module of the project that another one imports, and where."""

  importer: str
  imported: str
  place: str


def imports(root: pathlib.Path, package: str) -> Iterator[Import]:
  """Yields all imports among a package's modules, those inside functions too."""
  paths = {}
  for path in (root / package).rglob('*.py'):
    name = '.'.join(path.relative_to(root).with_suffix('').parts)
    paths[name.removesuffix('.__init__') if path.parent != root / package else name] = path
  for importer, path in paths.items():
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f'{path}:{node.lineno}: write the whole name of the module.'
        names = [f'{node.module}.{alias.name}' for alias in node.names]
      else:
        continue
      for name in names:
        found = name if name in paths else name.rpartition('.')[0]  # Else a name in that module.
        if found in paths and found != importer:
          yield Import(importer, found, f'{path.relative_to(root)}:{node.lineno} imports {found}')


def room(module: str) -> str:
  """The top-level package or module below the project's, or that it is a program."""
  return '__main__' if module.endswith('.__main__') else module.split('.')[1]


def folder(module: str, packages: set[str]) -> str:
  """The innermost package that holds a module; a program (`__main__`) stands for itself."""
  if module in packages or module.endswith('.__main__') or module.count('.') == 1:
    return module
  return module.rpartition('.')[0]


def upward(found: list[Import], floors: tuple[str, ...]) -> list[str]:
  """The imports that do not go down, in words."""
  level = {name: number for number, names in enumerate(floors, 1) for name in names.split()}
  return [
    f'{one.place}: {a} is on floor {level[a]}, {b} on floor {level[b]}'
    for one in found
    for a, b in [(room(one.importer), room(one.imported))]
    if a != b and level[a] <= level[b]
  ]


def circle(arrows: dict[tuple[str, str], str]) -> list[str]:
  """The imports of one circle, in words; none if there is no circle."""
  sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
  for importer, imported in arrows:
    sorter.add(importer, imported)
  try:
    sorter.prepare()
  except graphlib.CycleError as error:
    nodes = error.args[1]  # Each is imported by the next.
    return [arrows[b, a] for a, b in itertools.pairwise(nodes)]
  return []


def circles(root: pathlib.Path, package: str) -> list[str]:
  """A circle among modules, else one among folders."""
  found = list(imports(root, package))
  inits = (root / package).rglob('__init__.py')
  packages = {'.'.join(path.parent.relative_to(root).parts) for path in inits}
  among_modules = {(one.importer, one.imported): one.place for one in found}
  ends = [(folder(a, packages), folder(b, packages), place) for a, b, place in found]
  among_folders = {(a, b): place for a, b, place in ends if a != b}
  return circle(among_modules) or circle(among_folders)


def test_every_room_has_a_floor():
  rooms = {path.stem for path in (ROOT / 'implicit_rl').glob('*.py')}
  rooms |= {path.parent.name for path in (ROOT / 'implicit_rl').glob('*/__init__.py')}
  named = ' '.join(FLOORS).split()
  assert len(named) == len(set(named))
  assert rooms | {'__main__'} == set(named), (
    'Name the room in FLOORS, and in the layout tables of the docs.'
  )


def test_rooms_import_downwards_only():
  found = list(imports(ROOT, 'implicit_rl'))
  assert len(found) > 200
  assert upward(found, FLOORS) == []


def test_there_are_no_circles():
  assert circles(ROOT, 'implicit_rl') == []


def write(root: pathlib.Path, **files: str) -> None:
  for name, text in files.items():
    path = root / 'project' / f'{name.replace("__in__", "/")}.py'
    for made in (root / 'project', path.parent):
      made.mkdir(parents=True, exist_ok=True)
      (made / '__init__.py').touch()
    path.write_text(text)


def test_an_import_within_a_function_counts(tmp_path):
  write(tmp_path, low='def late():\n  import project.high.part\n', high__in__part='')
  assert upward(list(imports(tmp_path, 'project')), ('low', 'high')) == [
    'project/low.py:2 imports project.high.part: low is on floor 1, high on floor 2'
  ]
  assert circles(tmp_path, 'project') == []


def test_a_circle_is_named_import_by_import(tmp_path):
  write(tmp_path, a__in__one='from project.b import one\n', b__in__one='import project.a.two\n')
  write(tmp_path, a__in__two='import ast\n')
  assert sorted(circles(tmp_path, 'project')) == [  # Among folders, not among modules.
    'project/a/one.py:1 imports project.b.one',
    'project/b/one.py:1 imports project.a.two',
  ]
  write(tmp_path, a__in__two='import project.a.one as other\n')
  assert len(circles(tmp_path, 'project')) == 3
  assert upward(list(imports(tmp_path, 'project')), ('a b',)) != []


def test_the_pure_rooms_load_neither_tensorflow_nor_dopamine():
  modules = """
    losses networks learner metrics agents.dqn agents.fqe agents.rainbow
    data.replay.online_replay environments.minatar analysis.runs logs.checkpoints
    measure_device.__main__
  """
  code = f"""
import importlib, sys
for name in {modules.split()}:
  importlib.import_module(f'implicit_rl.{{name}}')
  slow = {{'tensorflow', 'dopamine'}} & set(sys.modules)
  assert not slow, f'{{name}} loads {{slow}}'
"""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 0, done.stderr


def test_a_minatar_run_loads_nothing_slow_that_it_does_not_use():
  code = """
import sys
from implicit_rl.running import configurables, experiment
from implicit_rl.data.formats import tfds_files
from implicit_rl.data.replay import device_replay
from implicit_rl.data.sources import tfds_replay
from implicit_rl.environments import minatar
configurables.load()
dataset = tfds_files.open_dataset(
  tfds_replay.EMBEDDED, 'minatar_checkpoints_ordered', 'Breakout_run_1'
)
tfds_files.read_index(dataset)
slow = 'tensorflow tensorflow_probability matplotlib pandas seaborn orbax.checkpoint gym ale_py'
print(*(name for name in slow.split() if name in sys.modules))
"""
  loaded = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
  ).stdout.split()
  assert loaded == []


def test_every_module_says_what_it_is():
  for path in (ROOT / 'implicit_rl').rglob('*.py'):
    assert path.read_text().startswith(('"""', 'r"""')), f'{path} has no first line'


def test_agents_and_runners_ask_what_sources_and_environments_declare():
  """They look up no member that may be missing, and compare no classes."""
  forks = []
  paths = [p for room in ('agents', 'running') for p in (ROOT / 'implicit_rl' / room).glob('*.py')]
  assert len(paths) > 20
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
        continue
      called = ast.unparse(node)
      if node.func.id in ('hasattr', 'isinstance', 'getattr') and '__name__' not in called:
        asked = ast.unparse(node.args[0])
        if asked.endswith(('source', 'environment', 'sources[0]')) or 'made' in asked:
          forks.append(f'{path.name}:{node.lineno}: {called}')
  assert forks == []
