"""Small offline runs that many tests begin with, each made once and copied."""

import functools
import shutil

import pytest

from tests.faults import processes


@pytest.fixture(scope='session')
def made(tmp_path_factory):
  """The directory of the small run of so many iterations."""

  @functools.cache
  def make(iterations):
    path = tmp_path_factory.mktemp(f'small_{iterations}')
    processes.more(path, iterations)
    return path

  return make


@pytest.fixture
def ran(made, tmp_path):
  """Makes the test's directory one that the small run of so many iterations has been done in."""
  return lambda iterations: shutil.copytree(made(iterations), tmp_path, dirs_exist_ok=True)
