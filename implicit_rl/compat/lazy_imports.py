"""Delays imports until something is used, for libraries that import more than a run needs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Within = Callable[[], contextlib.AbstractContextManager[Any]]


class _StandIn(types.ModuleType):
  """Looks attributes up in the module of its name, which the first look-up imports."""

  def __init__(self, name: str, within: Within):
    super().__init__(name)
    self._within = within

  def __getattr__(self, name: str) -> Any:
    if sys.modules.get(self.__name__) is self:  # Used inside the block.
      del sys.modules[self.__name__]
    module = sys.modules.get(self.__name__)
    if module is None:
      with self._within():
        module = importlib.import_module(self.__name__)
    return getattr(module, name)


@contextlib.contextmanager
def put_off(*names: str, within: Within = contextlib.nullcontext) -> Iterator[None]:
  """Modules that are imported in the block get stand-ins for the named modules.

  A stand-in imports the real module when something in it is first used, in the block or later. No
  stand-in stays in `sys.modules`: later imports of the same names get the real modules. Modules
  that are already imported get no stand-in.

  Args:
    *names: of modules; a package before its modules. `package.module:function` is for a function
      that the block only passes on: its stand-in imports the module when it is called.
    within: creates the context in which a stand-in imports its module.
  """
  stand_ins: dict[str, _StandIn] = {}
  for name, _, function in (name.partition(':') for name in names):
    if name in sys.modules:
      continue
    stand_in = stand_ins.setdefault(name, _StandIn(name, within))
    if function:
      setattr(stand_in, function, _called_later(stand_in, function))
    package, _, module = name.rpartition('.')
    if package in stand_ins:
      spec = importlib.util.find_spec(package)  # Python reads a package's path.
      stand_ins[package].__path__ = (spec and spec.submodule_search_locations) or []
      setattr(stand_ins[package], module, stand_in)
  sys.modules.update(stand_ins)
  try:
    yield
  finally:
    for name, stand_in in stand_ins.items():
      if sys.modules.get(name) is stand_in:
        del sys.modules[name]


def is_put_off(value: Any) -> bool:
  """Whether something is a stand-in, used or not."""
  return type(value) is _StandIn


def _called_later(stand_in: _StandIn, name: str) -> Callable[..., Any]:
  def function(*args: Any, **kwargs: Any) -> Any:
    return stand_in.__getattr__(name)(*args, **kwargs)

  function.__name__ = function.__qualname__ = name
  return function


class _Around(importlib.abc.MetaPathFinder):
  """Finds one module as the other finders do, and executes it in a context."""

  def __init__(self, name: str, within: Within):
    self.name, self._within = name, within

  def find_spec(
    self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """Called by Python on a finder; returns None for every other name."""
    if name != self.name:
      return None
    others = (finder for finder in sys.meta_path if not isinstance(finder, _Around))
    found = (finder.find_spec(name, path, target) for finder in others)
    spec = next((spec for spec in found if spec is not None), None)
    if spec is not None and spec.loader is not None:
      execute = spec.loader.exec_module

      def exec_module(module: types.ModuleType) -> None:
        with self._within():
          execute(module)

      spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


def around(name: str, within: Within) -> None:
  """Makes a later import of a module run in a context; does nothing if it is imported already.

  Args:
    name: of the module.
    within: creates the context.
  """
  if name not in sys.modules:
    sys.meta_path.insert(0, _Around(name, within))
