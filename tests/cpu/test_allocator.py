"""Freed memory is kept: what was touched once is not fetched from the operating system again."""

import os
import pathlib
import platform
import statistics
import subprocess
import sys

import pytest

from implicit_rl.cpu import allocator

ROOT = pathlib.Path(__file__).parent.parent.parent
LIBRARY, VERSION = platform.libc_ver()
GLIBC = LIBRARY == 'glibc' and tuple(map(int, VERSION.split('.'))) >= (2, 35)
CHOICES = ('MALLOC_MMAP_THRESHOLD_', 'MALLOC_ARENA_MAX', 'GLIBC_TUNABLES', 'LD_PRELOAD')

COUNTED = """
import ctypes, concurrent.futures, resource
from implicit_rl.cpu import allocator

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # Pages of one size, whatever Linux is set to.
kept = allocator.keep_freed_memory()

def pages(work):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  work()
  return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
"""


def said_by(code: str, **chosen: str) -> list[str]:
  """The words that code prints in a process of its own, on the CPU, with the user's `chosen`."""
  environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
  return subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
    env={**environment, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', **chosen},
  ).stdout.split()


@pytest.mark.parametrize('chosen', [{}, {'MALLOC_MMAP_THRESHOLD_': '131072'}])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(chosen):
  code = """
with concurrent.futures.ThreadPoolExecutor(1) as other:
  work = lambda: other.submit(lambda: (b'x' * allocator.BLOCK, b'y' * allocator.BLOCK)).result()
  print(kept, *[pages(work) for _ in range(5)])
"""
  kept, first, *others = said_by(COUNTED + code, **chosen)
  assert kept == str(GLIBC and not chosen)
  assert int(first) > 1.9 * allocator.BLOCK
  touched = sum(map(int, others))
  assert touched < 0.1 * allocator.BLOCK if kept == 'True' else touched > 4 * 1.9 * allocator.BLOCK


@pytest.mark.skipif(not GLIBC, reason='of glibc')
def test_what_a_program_needs_besides_is_kept_though_it_is_more_than_a_heap():
  code = """
import jax, jax.numpy as jnp

def chained(x, v):
  matrices = [jnp.tanh(x * i) @ x.T for i in range(8)]  # 16 MiB each, all there at once
  return sum(m @ (n @ v) for m, n in zip(matrices, matrices[::-1]))

jitted = jax.jit(chained)
x, v = jnp.ones((2048, 8)), jnp.ones(2048)
print(jitted.lower(x, v).compile().memory_analysis().temp_size_in_bytes)
print(*[pages(lambda: jax.block_until_ready(jitted(x, v))) for _ in range(100)])
"""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_multiheap_size_constraint_per_heap={allocator.BLOCK}'
  needed, *touched = map(int, said_by(COUNTED + code, XLA_FLAGS=flags))
  assert needed > 64 << 20
  assert max(touched) >= 0.9 * needed
  assert statistics.median(touched) < 4 << 20  # Each of XLA's threads touches all of it once.
