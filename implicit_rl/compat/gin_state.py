"""Saves gin's global configuration, so that a block can have its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gin
from gin import config as gin_config


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
  """Starts the block with an empty configuration; restores the caller's when the block ends.

  Bindings, scopes, singletons, the operative configuration and the lock are restored. Names that
  the block registers, by importing modules, stay: gin cannot forget them.
  """
  stores = (gin_config._CONFIG, gin_config._OPERATIVE_CONFIG, gin_config._SINGLETONS)
  kept, imports = [dict(store) for store in stores], set(gin_config._IMPORTS)
  locked = gin.config_is_locked()
  try:
    with gin.config_scope(None):
      gin.clear_config()
      yield
  finally:
    gin.clear_config()
    for store, content in zip(stores, kept, strict=True):
      store.update(content)
    gin_config._IMPORTS.update(imports)
    gin_config._set_config_is_locked(locked)
