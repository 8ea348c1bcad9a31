"""Sends each iteration's metrics to Weights & Biases, as a collector of Dopamine.

collector_dispatcher.CollectorDispatcher.collectors = ('tensorboard', 'wandb')
"""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Literal

import gin

from implicit_rl.compat import gin_names
from implicit_rl.logs import collectors

# isort: split
from dopamine.metrics import collector_dispatcher, statistics_instance


@gin.configurable(denylist=['base_dir'])
class WandbCollector(collectors.Collector):
  """A Weights & Biases run for each `--base_dir`; a resumed run continues it.

  Args:
    base_dir: directory of the run; its files are in `base_dir/metrics/wandb`.
    project: name of the project there.
    mode: 'online', 'offline' (files to send later with `wandb sync`), 'disabled', or None for the
      environment variable WANDB_MODE, by default online.

  Raises:
    ValueError: if wandb is not installed.
  """

  def __init__(
    self,
    base_dir: str,
    project: str = 'implicit_rl',
    mode: Literal['online', 'offline', 'disabled'] | None = None,
  ):
    try:
      import wandb
    except ImportError as error:
      raise ValueError(
        "The collector 'wandb' needs the package: pip install 'implicit_rl[wandb]'."
      ) from error
    super().__init__(base_dir)
    kept = pathlib.Path(self._base_dir) / 'run_id'
    if not kept.exists():
      kept.write_text(secrets.token_hex(8))
    self._run = wandb.init(
      project=project,
      name=os.path.basename(os.path.abspath(base_dir)),
      id=kept.read_text(),
      resume='allow',
      mode=mode,
      dir=self._base_dir,
      config=gin_names.settings(),
      settings=wandb.Settings(silent=True),
    )

  def get_name(self) -> str:
    """The name of its directory and in the gin line."""
    return 'wandb'

  def write(self, statistics: Sequence[statistics_instance.StatisticsInstance]) -> None:
    """Logs the scalars of each step as one row."""
    for step in sorted({one.step for one in statistics}):
      row = {one.name: one.value for one in statistics if one.step == step}
      self._run.log(row, step=step)

  def close(self) -> None:
    """Ends the run; offline, wandb's own process may still write its file for a moment."""
    self._run.finish()


def register() -> None:
  """Registers the name 'wandb' with Dopamine's dispatcher."""
  collector_dispatcher.add_collector('wandb', WandbCollector)
