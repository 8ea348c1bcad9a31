"""Freed memory is kept: what was touched once is not fetched from the operating system again."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from implicit_rl import memory
def pages():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(4):
    b'x' * (64 << 20)  # 16,384 pages
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages(), memory.keep_freed_memory(), pages() and pages())
"""


@pytest.mark.parametrize('chosen', [{}, {'MALLOC_MMAP_THRESHOLD_': '131072'}])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(chosen):
  done = subprocess.run(
    [sys.executable, '-c', CODE], capture_output=True, text=True, check=True, env=chosen
  )
  before, kept, after = done.stdout.split()
  assert int(before) >= 4 * 10_000 or platform.libc_ver()[0] != 'glibc'
  assert kept == str(platform.libc_ver()[0] == 'glibc' and not chosen)
  assert int(after) < 1000 if kept == 'True' else int(after) >= 4 * 10_000
