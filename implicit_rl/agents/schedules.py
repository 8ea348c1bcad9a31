"""How an agent's ε falls, and how its updates are cut into compiled calls."""

from __future__ import annotations

from collections.abc import Iterator


def linearly_decaying_epsilon(step: int, warmup: int, period: int, final: float) -> float:
  """1 until `warmup` steps, then linear to `final` over `period` steps (Mnih et al., 2015)."""
  left = 1.0 - (step - warmup) / max(period, 1)
  return final + (1.0 - final) * min(max(left, 0.0), 1.0)


def chunk_size(num_updates: int, most: int = 64) -> int:
  """Updates per compiled call: a divisor of `num_updates` if one is near, so one program serves."""
  for size in range(min(most, num_updates), most // 2, -1):
    if num_updates % size == 0:
      return size
  return min(most, num_updates)


def chunks(first: int, total: int, chunk: int) -> Iterator[tuple[int, int]]:
  """Cuts updates `first` to `first + total` into (start, count), each of `chunk` at most."""
  for start in range(first, first + total, chunk):
    yield start, min(chunk, first + total - start)
