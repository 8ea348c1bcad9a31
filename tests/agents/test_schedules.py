"""How updates and turns are cut into compiled calls."""

import pytest

from implicit_rl.agents import schedules


@pytest.mark.parametrize(
  ('total', 'most', 'size'),
  [
    (1000, 64, 50),
    (62_500, 64, 50),
    (64, 64, 64),
    (7, 64, 7),
    (67, 64, 64),
    (1, 1, 1),
    (250, 62, 50),
  ],
)
def test_calls_have_one_size_where_a_divisor_is_near(total, most, size):
  assert schedules.chunk_size(total, most) == size


def test_chunks_cover_every_step_once_also_from_within():
  for first, total, chunk in ((0, 67, 64), (50, 950, 50), (10, 0, 5), (3, 4, 9)):
    parts = list(schedules.chunks(first, total, chunk))
    steps = [step for start, count in parts for step in range(start, start + count)]
    assert steps == list(range(first, first + total))
    assert all(0 < count <= chunk for _, count in parts)
