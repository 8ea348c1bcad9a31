"""A sweep's file stands for the runs that it says, and what it should not say is named."""

import itertools
import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_rl.sweep import spec as sweep_spec

PATH = pathlib.Path('sweeps/mine.yaml')
NAMES = st.text('abcXYZ019_.+-%', min_size=1, max_size=6).filter(lambda name: name.strip('.'))
CHOICES = st.dictionaries(NAMES, st.builds(dict, bindings=st.lists(NAMES, max_size=2)), min_size=1)


@settings(deadline=None)
@given(
  overlays=st.dictionaries(NAMES, CHOICES, max_size=3),
  games=st.lists(NAMES, unique=True, max_size=4),
  seeds=st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=4),
)
def test_each_combination_is_one_run_in_the_order_of_the_file(overlays, games, seeds):
  said = {'overlays': overlays, 'games': games, 'seeds': seeds, 'bindings': ['g={game} s={seed}']}
  planned = sweep_spec.expand(sweep_spec.parse(said, PATH))
  # Nested loops over what was said, in its order, the last one fastest.
  expected = list(itertools.product(*overlays.values(), games or [''], seeds))
  assert len(planned) == len(expected)
  for run, (*chosen, game, seed) in zip(planned, expected, strict=True):
    assert (run.game, run.seed) == (game, seed)
    assert run.name == '/'.join([*chosen, *filter(None, [game]), f'seed_{seed}'])
    own = [
      line
      for axis, name in zip(overlays, chosen, strict=True)
      for line in overlays[axis][name]['bindings']
    ]
    assert run.bindings == (f'g={game} s={seed}', *own)
  assert len({run.name for run in planned}) == len(planned)


def test_a_choice_adds_to_the_sweep_and_wins(tmp_path):
  for name in ('base', 'first', 'second'):
    (tmp_path / f'{name}.gin').touch()
  said = {
    'gin_files': [f'{tmp_path}/base.gin'],
    'measured': {'updates_per_second': 10, 'device': 'one core'},
    'overlays': {
      'one': {'a': {'gin_files': [f'{tmp_path}/first.gin']}},
      'two': {
        'b': {
          'gin_files': [f'{tmp_path}/second.gin'],
          'measured': {'updates_per_second': 5},
        }
      },
    },
  }
  (run,) = sweep_spec.expand(sweep_spec.parse(said, PATH))
  assert [pathlib.Path(path).stem for path in run.gin_files] == ['base', 'first', 'second']
  assert run.measured == {'updates_per_second': 5, 'device': 'one core'}
  assert (run.variant, run.seed, run.game) == ('a, b', 0, '')


def test_choices_of_a_vmapped_overlay_share_a_process():
  rates = {name: {'bindings': [f'optax.adam.learning_rate = {name}']} for name in ('0.1', '0.01')}
  said = {
    'seeds': 2,
    'overlays': {'rate': {'vmap': True, **rates}, 'data': {'few': {}, 'many': {}}},
  }
  spec = sweep_spec.parse(said, PATH)
  groups = sweep_spec.groups(sweep_spec.expand(spec))
  assert [[run.name for run in group] for group in groups] == [
    [f'{rate}/{data}/seed_{seed}' for rate in rates] for data in ('few', 'many') for seed in (0, 1)
  ]
  alone = sweep_spec.groups(sweep_spec.expand(spec._replace(vmapped=())))
  assert [len(group) for group in alone] == [1] * 8


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('seed: 3', r'mine\.yaml: seed is not a key of a sweep; did you mean seeds\?'),
    ('seeds: [1, 1]', r'mine\.yaml: seeds names one twice'),
    ('seeds: [-1]', r'seeds must be whole numbers, at least 0, got -1'),
    ('seeds: []', r'seeds is empty'),
    ('games: Pong', r"games must be a list, got 'Pong'"),
    ('games: [../Pong]', r"games holds '\.\./Pong', which cannot be a directory"),
    ('overlays: {penalty: {lp: {gin_file: [x]}}}', r'overlays\.penalty\.lp\.gin_file.*gin_files\?'),
    ('overlays: {penalty: {}}', r'overlays\.penalty needs at least one choice'),
    ('gin_files: [gin_configs/penalties/lq.gin]', r'gin_files names .*mean .*penalties/lp\.gin\?'),
    ('bindings: [1]', r'bindings must hold text; put quotes around 1'),
    ('overlays: {rate: {vmap: 1, low: {}}}', r'overlays\.rate\.vmap must be true or false, got 1'),
    ('overlays: {rate: {vmap: true}}', r'overlays\.rate needs at least one choice'),
    ('resources: {gpu: 1}', r'resources\.gpu is not a key of a sweep; did you mean gpus\?'),
    ('resources: {gpus: -1}', r'resources\.gpus must be numbers, at least 0'),
    ('retries: 1.5', r'retries must be whole numbers'),
    ('measured: {updates_per_second: 0}', r'measured\.updates_per_second must be above 0'),
    ('seeds: [1]\nseeds: [2]', r'mine\.yaml: line 2: seeds is given twice'),
    ('seeds: [1', r'mine\.yaml: line \d'),
    ('- seeds', r"mine\.yaml: must be names with values, got \['seeds'\]"),
  ],
)
def test_what_a_file_should_not_say_is_named(text, expected, tmp_path, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parent.parent.parent)
  (tmp_path / 'mine.yaml').write_text(text)
  with pytest.raises(ValueError) as wrong:
    sweep_spec.read(tmp_path / 'mine.yaml')
  assert re.search(expected, str(wrong.value)) and '\n' not in str(wrong.value), wrong.value


def test_a_file_that_is_not_there(tmp_path):
  (tmp_path / 'mine.yaml').touch()
  with pytest.raises(FileNotFoundError, match=r'mien\.yaml: no such file\. Did you mean .*mine'):
    sweep_spec.read(tmp_path / 'mien.yaml')
