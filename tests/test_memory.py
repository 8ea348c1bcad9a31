"""Freed memory is kept: what was touched once is not fetched from the operating system again."""

import platform
import subprocess
import sys

import pytest

CODE = """
import concurrent.futures, resource
from implicit_rl import memory

kept = memory.keep_freed_memory()
with concurrent.futures.ThreadPoolExecutor(1) as other:
  def touch():  # 17,920 pages; more than the 64 MB that a thread's own arena can serve
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    other.submit(lambda: b'x' * (70 << 20)).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
  print(kept, *[touch() for _ in range(5)])
"""


@pytest.mark.parametrize('chosen', [{}, {'MALLOC_MMAP_THRESHOLD_': '131072'}])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(chosen):
  done = subprocess.run(
    [sys.executable, '-c', CODE], capture_output=True, text=True, check=True, env=chosen
  )
  kept, first, *others = done.stdout.split()
  assert kept == str(platform.libc_ver()[0] == 'glibc' and not chosen)
  assert int(first) >= 10_000
  pages = sum(map(int, others))
  assert pages < 1000 if kept == 'True' else pages >= 4 * 10_000
