"""Cases of a parametrised test, of which `make test` runs some and `make test-all` every one."""

import pytest


def cases(every, keep):
  """Marks all cases as `exhaustive` that `keep` does not hold of.

  Args:
    every: tuples, one of each case's parameters.
    keep: takes a case's parameters; returns whether `make test` has the case.
  """
  marks = lambda one: () if keep(*one) else pytest.mark.exhaustive
  return [pytest.param(*one, marks=marks(one)) for one in every]
