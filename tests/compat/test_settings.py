"""What is not a number, or out of its range, is refused with the setting's name."""

import fractions
import math

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.compat.settings import check_number


@pytest.mark.parametrize(
  ('value', 'limits'),
  [
    (0, {'least': 0}),
    (1e-9, {'above': 0}),
    (1.0, {'above': 0, 'most': 1}),
    (fractions.Fraction(1, 3), {'least': 0, 'most': 1}),
    (np.float32(0.5), {'most': 1}),
    (np.int64(3), {'whole': True, 'least': 1}),
    (jnp.float32(0.5), {'least': 0}),
    (math.inf, {'least': 0}),
    (-3, {}),
    (None, {'optional': True, 'least': 1}),
  ],
)
def test_numbers_in_their_range_pass(value, limits):
  check_number('Some.setting', value, **limits)


@pytest.mark.parametrize(
  ('value', 'limits', 'expected'),
  [
    ('abc', {'least': 0}, "Some.setting must be a number of at least 0, got 'abc'."),
    (-1, {'least': 0, 'most': 1}, 'Some.setting must be a number in [0, 1], got -1.'),
    (0, {'above': 0, 'most': 1}, 'Some.setting must be a number in (0, 1], got 0.'),
    (0.0, {'above': 0, 'optional': True}, 'must be a number above 0 or None, got 0.0.'),
    (2.5, {'least': 1, 'whole': True}, 'must be a whole number of at least 1, got 2.5.'),
    (7, {'most': 5}, 'must be a number of at most 5, got 7.'),
    (math.nan, {}, 'must be a number, got nan.'),
    (True, {'whole': True}, 'must be a whole number, got True.'),
    (None, {'least': 0}, 'must be a number of at least 0, got None.'),
    ([1], {}, 'must be a number, got [1].'),
  ],
)
def test_others_are_named(value, limits, expected):
  with pytest.raises(ValueError) as raised:
    check_number('Some.setting', value, **limits)
  assert str(raised.value).endswith(expected)
