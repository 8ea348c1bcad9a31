"""Whether two trainings of one start end alike, up to rounding."""

import jax
import numpy as np


def assert_same_end(end, expected, start):
  """Asserts that what training changed is equal to a thousandth of the change.

  A fixed tolerance proves little: a few updates at a learning rate of 6e-5 change no parameter by
  more than 1e-4. Programs add up in different orders, so they round apart.

  Args:
    end: a pytree of arrays.
    expected: likewise.
    start: what both began with.
  """
  jax.tree.map(_assert_close, end, expected, start)


def _assert_close(end, expected, start):
  if not np.issubdtype(expected.dtype, np.floating):
    np.testing.assert_array_equal(end, expected)
    return
  change = np.max(np.abs(expected - start), initial=0)
  rounding = 1e-6 * np.max(np.abs(expected), initial=0)
  np.testing.assert_allclose(end, expected, rtol=0, atol=1e-3 * change + rounding)
