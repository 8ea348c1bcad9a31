"""Imported before all else, makes TensorFlow, TFDS and Dopamine look as if not installed."""

import importlib.abc
import sys

NAMES = ('tensorflow', 'tensorflow_datasets', 'dopamine')


class Blocker(importlib.abc.MetaPathFinder):
  """Refuses modules."""

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in NAMES:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)


sys.meta_path.insert(0, Blocker())
