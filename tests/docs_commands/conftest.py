"""The folder in which the commands and the Python of the pages run."""

import os

import pytest

from tests.docs_commands import lab


@pytest.fixture(scope='session')
def made_lab(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lab') / 'checkout'
  folder.mkdir()
  lab.make(folder)
  return folder


@pytest.fixture
def lab_folder(made_lab, monkeypatch):
  """The working directory, where what other commands have made stays."""
  monkeypatch.chdir(made_lab)
  monkeypatch.syspath_prepend(made_lab)
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('MINARI_DATASETS_PATH', os.fspath(made_lab / 'minari'))
  return made_lab
