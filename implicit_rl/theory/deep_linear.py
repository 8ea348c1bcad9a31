"""Deep linear networks Q(s, a) = W_N W_φ [s; a] under gradient flow (paper §4.2 and App. D).

`weights` is the tuple (W_1, ..., W_N), N >= 3, W_N of shape [1, d]; W_φ = W_{N-1} ... W_1 maps an
input to the features. The loss is the paper's: the sum of squared errors. All results are float64
NumPy arrays.
"""

import functools
import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from implicit_rl.theory.float64 import in_float64

Weights = tuple[np.ndarray, ...]


def balanced_init(
  seed: int, width: int, d0: int, singular_values: ArrayLike, depth: int, head: float = 1.0
) -> Weights:
  """Weights with W_{j+1}^T W_{j+1} = W_j W_j^T for all layers but the last (Eq. D.3).

  Args:
    seed: draws W_φ's singular vectors, the rotations between layers and the direction of W_N.
    width: d, of every hidden layer.
    d0: size of the input.
    singular_values: of W_φ, min(width, d0) of them.
    depth: N, at least 3.
    head: norm of W_N.
  """
  m = min(width, d0)
  singular_values = np.asarray(singular_values, float)
  if depth < 3 or len(singular_values) != m:
    raise ValueError(f'balanced_init: need depth >= 3 and {m} singular values')
  rng = np.random.default_rng(seed)
  rotation = lambda rows: np.linalg.qr(rng.normal(size=(rows, rows)))[0][:, :m]
  root = np.diag(singular_values ** (1 / (depth - 1)))
  right, weights = rotation(d0), []
  for _ in range(depth - 1):
    left = rotation(width)
    weights.append(left @ root @ right.T)
    right = left  # the next layer's input directions are this one's output directions
  last = rng.normal(size=(1, width))
  return (*weights, head * last / np.linalg.norm(last))


def gaussian_init(seed: int, width: int, d0: int, depth: int, scale: float = 1.0) -> Weights:
  """Unbalanced weights with entries N(0, scale²/fan_in), the usual initialisation."""
  rng = np.random.default_rng(seed)
  sizes = [d0] + [width] * (depth - 1) + [1]
  return tuple(scale * rng.normal(size=(b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes))


def feature_map(weights):
  """W_φ = W_{N-1} ... W_1, [d, d0]."""
  return functools.reduce(lambda product, w: w @ product, weights[:-1])


def end_to_end(weights):
  """W_{N:1} as a vector, [d0]."""
  return (weights[-1] @ feature_map(weights))[0]


def loss(weights, inputs, targets):
  """Σ_i (W_{N:1} x_i - y_i)²: scalar."""
  return jnp.sum((inputs @ end_to_end(weights) - targets) ** 2)


def balancedness(weights: Weights) -> float:
  """max_j max |W_{j+1}^T W_{j+1} - W_j W_j^T| over all layers but the last (Lemma D.0.1)."""
  pairs = itertools.pairwise(weights[:-1])
  return max(float(np.max(np.abs(after.T @ after - w @ w.T))) for w, after in pairs)


@jax.jit
def _flow(weights, inputs, targets, times, rtol):
  field = lambda t, w, args: jax.tree.map(jnp.negative, jax.grad(loss)(w, inputs, targets))
  return diffrax.diffeqsolve(
    diffrax.ODETerm(field),
    diffrax.Dopri8(),
    times[0],
    times[-1],
    None,
    weights,
    saveat=diffrax.SaveAt(ts=times),
    stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol / 100),
    max_steps=100_000,
  ).ys


@in_float64
def gradient_flow(weights, inputs, targets, times, rtol=1e-10):
  """Solves dW_j/dt = -dL/dW_j with an 8th-order adaptive solver (Eq. D.2 with η = 1).

  Args:
    weights: at times[0].
    inputs: [n, d0].
    targets: [n], held fixed.
    times: [t] increasing or decreasing, at least two.
    rtol: relative tolerance of the solver; the absolute one is rtol / 100.

  Returns:
    Weights with a leading axis [t].
  """
  return _flow(weights, inputs, targets, np.asarray(times, np.float64), np.float64(rtol))


@in_float64
@functools.partial(jax.jit, static_argnames=('steps', 'record'))
def gradient_descent(weights, inputs, targets, step_size, steps, record=1):
  """Plain gradient descent; returns the weights after every `record` steps (leading axis).

  Args:
    weights: to start from.
    inputs: [n, d0].
    targets: [n], held fixed.
    step_size: η.
    steps: gradient updates, a multiple of `record`.
    record: gradient updates between two records.
  """
  descend = lambda _, w: jax.tree.map(
    lambda a, g: a - step_size * g, w, jax.grad(loss)(w, inputs, targets)
  )

  def block(w, _):
    w = jax.lax.fori_loop(0, record, descend, w)
    return w, w

  return jax.lax.scan(block, weights, length=steps // record)[1]


def predicted_velocity(weights: Weights, inputs, targets, factor: float | None = None):
  """[m] dσ_r/dt of W_φ by Proposition 4.1, for balanced weights with distinct singular values.

  -factor · (σ_r²)^{1 - 1/(N-1)} · <W_N^T dL/dW, u_r v_r^T>. The paper prints factor = N (Eq. 4);
  the derivation (a product of N - 1 balanced layers) gives N - 1, the default here.
  """
  depth = len(weights)
  factor = depth - 1 if factor is None else factor
  gradient = 2 * inputs.T @ (inputs @ end_to_end(weights) - targets)  # [d0] dL/dW_{N:1}
  u, sigma, vt = np.linalg.svd(feature_map(weights), full_matrices=False)
  alignment = (weights[-1][0] @ u) * (vt @ gradient)  # [m]
  return -factor * (sigma**2) ** (1 - 1 / (depth - 1)) * alignment


def measured_velocity(weights: Weights, inputs, targets, h: float = 1e-4) -> np.ndarray:
  """[m] dσ_r/dt by a central difference of two gradient flows, h forward and h backward."""
  ends = [
    gradient_flow(weights, inputs, targets, np.array([0.0, sign * h]), rtol=1e-13)
    for sign in (1, -1)
  ]
  after, before = (np.linalg.svd(feature_map(last(end)), compute_uv=False) for end in ends)
  return (after - before) / (2 * h)


def last(history: Weights) -> Weights:
  """The weights at the end of a recorded run."""
  return tuple(w[-1] for w in history)


def spectra(history: Weights) -> np.ndarray:
  """[t, m] singular values of W_φ along a recorded run (weights with a leading axis)."""
  return np.linalg.svd(feature_map(history), compute_uv=False)
