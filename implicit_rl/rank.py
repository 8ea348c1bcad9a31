"""Measures of a feature matrix's rank, and the penalty that raises it. Needs only jax.

Φ [n, d] holds the features of n inputs, one per row; σ_1 ≥ … ≥ σ_m ≥ 0 with m = min(n, d) are its
singular values. σ_min = σ_m is that of the smaller Gram matrix, so a wide Φ of full row rank has
σ_min > 0. Formulas: Kumar et al., "Implicit Under-Parameterization Inhibits Data-Efficient Deep
Reinforcement Learning", ICLR 2021. Every measure also applies to `centred(Φ)`. The two values
differ where the mean feature dominates the spectrum.

For every function here:
  Input: anything that `jnp.asarray` accepts (JAX, NumPy, PyTorch on the CPU, nested lists) with two
    dimensions. Other shapes raise ValueError (batch with `jax.vmap`), complex numbers TypeError.
  Precision: integers, booleans, float16 and bfloat16 are computed in float32; float64 stays float64
    where JAX has it enabled. Matrix products run at full precision on every backend.
  Non-finite features: NaN, in values and in gradients; never a rank.
  Zero matrix: every rank, the norm and the penalty are 0, the condition number is inf. A matrix
    without rows or columns is measured as a zero matrix.
  Scale: Φ is divided by a power of two near max|Φ| before anything is squared, so that features of
    1e-20 or 1e20 are measured correctly. Subnormal numbers (below 1.2e-38 in float32) count as 0.
  Gradients: exact wherever the singular values concerned are distinct. Where they repeat (identity,
    duplicate directions) the gradient is one of the subgradients. Ranks that are counts have
    gradient 0.
  Second derivatives: exact too. Where singular values repeat, only `lp_penalty`'s are finite.
All are compiled with `jax.jit` and work inside every transformation of JAX, including forward and
reverse mode in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np  # A part of every jax installation; used on the host by `eigenvalue_srank`.
from jax import lax

from implicit_rl.eigensolvers import SOLVERS

ArrayLike = Any  # Anything that `jnp.asarray` accepts.

_PCA_DELTA = 0.01  # of Σσ², left out by `pca_rank`.
# Measures that results are stated with; they disagree in sign on the same runs.
WORDS = {
  'srank': 'srank',
  'effective_rank': 'entropy rank',
  'pca_rank': 'PCA rank',
  'centred_srank': 'centred srank',
  'centred_effective_rank': 'centred entropy rank',
  'centred_pca_rank': 'centred PCA rank',
}


def _without_wide_integers(values: ArrayLike) -> ArrayLike:
  """Converts integers on the host to float32, since JAX would truncate them to 32 bits."""
  if isinstance(values, list | tuple):
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)):
      return values
    values = np.asarray(values)
  if isinstance(values, jax.Array) or 'int' not in str(getattr(values, 'dtype', '')):
    return values
  return np.asarray(values).astype(np.float32)


def _as_array(values: ArrayLike, ndim: int, what: str) -> jax.Array:
  """Converts to a float32 or float64 array and checks the number of dimensions."""
  array = jnp.asarray(_without_wide_integers(values))
  if array.ndim != ndim:
    raise ValueError(
      f'{what} must have {ndim} dimension(s), got shape {array.shape}; '
      'flatten them, or batch with jax.vmap'
    )
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise TypeError(f'{what} must be real numbers, got {array.dtype}')
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _check_delta(delta: ArrayLike) -> ArrayLike:
  """Raises ValueError for a known δ outside (0, 1); a traced one gives NaN later instead."""
  if jnp.ndim(delta) != 0:
    raise ValueError(f'delta must be a single number, got shape {jnp.shape(delta)}; use jax.vmap')
  if not isinstance(delta, jax.core.Tracer) and not 0 < float(delta) < 1:
    raise ValueError(f'delta must lie strictly between 0 and 1, got {delta}')
  return delta


def _on_features(function: Callable[[jax.Array], jax.Array]) -> Callable[[ArrayLike], jax.Array]:
  """Compiles a measure of an array [n, d] and converts and checks its input."""
  compiled = jax.jit(function)

  @functools.wraps(function)
  def measure(features: ArrayLike) -> jax.Array:
    return compiled(_as_array(features, 2, 'features'))

  return measure


def _largest(x: jax.Array) -> jax.Array:
  """Returns max|x|, which is finite where all elements are: [], without a gradient."""
  return jnp.max(jnp.abs(lax.stop_gradient(x)), initial=0)


def _poison(x: jax.Array) -> jax.Array:
  """Returns 1, or NaN where any element of `x` is not finite: []."""
  return jnp.where(jnp.isfinite(_largest(x)), 1, jnp.nan).astype(x.dtype)


@jax.custom_jvp
def _cleaned(x: jax.Array) -> jax.Array:
  """Returns `x`, or zeros where any element is not finite, since no decomposition may get a NaN."""
  return jnp.where(jnp.isfinite(_largest(x)), x, 0)


@_cleaned.defjvp
def _cleaned_jvp(primals, tangents):
  # Without this rule the gradient of non-finite features would be 0, which hides the fault.
  return _cleaned(*primals), tangents[0] * _poison(*primals)


def _normalised(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (x / scale, scale [], 1 or NaN []), with `scale` a power of two near max|x|.

  Dividing by a power of two is exact. The scale counts as a constant under differentiation, which
  is right for functions that multiply it back and for functions that do not depend on it.
  """
  largest, poison = _largest(x), _poison(x)
  x = _cleaned(x)
  if x.size == 0:
    return jnp.zeros((1,) * x.ndim, x.dtype), jnp.ones((), x.dtype), poison
  _, exponent = jnp.frexp(largest)
  # Bounded so that neither the scale nor its reciprocal, by which XLA may multiply instead, is a
  # subnormal number, which devices flush to zero.
  limits = jnp.finfo(x.dtype)
  exponent = jnp.clip(exponent, limits.minexp + 1, limits.maxexp - 2)
  scale = jnp.ldexp(jnp.ones((), x.dtype), exponent)
  return x / scale, scale, poison


def _spectrum(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns (σ / scale [m] descending, NaN for non-finite features; scale [])."""
  x, scale, poison = _normalised(x)
  return jnp.linalg.svd(x, compute_uv=False) * poison, scale


def _safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Returns 0 where the denominator is 0, with finite gradients there."""
  zero = denominator == 0
  return jnp.where(zero, 0, numerator) / jnp.where(zero, 1, denominator)


@_on_features
def singular_values(features: ArrayLike) -> jax.Array:
  """Returns the singular values σ_1 ≥ … ≥ σ_m, m = min(n, d): [m].

  From a true SVD: a float32 Gram matrix loses every σ below about 3e-4 σ_max. Values beyond the
  dtype's largest number are inf. Differentiable.
  """
  if 0 in features.shape:
    return jnp.zeros((0,), features.dtype)
  values, scale = _spectrum(features)
  return values * scale


def _srank(values: jax.Array, delta: ArrayLike) -> jax.Array:
  """Returns srank_δ of normalised values in descending order [m]; see `srank`. Gradient 0."""
  values, delta = lax.stop_gradient((values, jnp.asarray(delta, values.dtype)))
  tails = jnp.cumsum(values[::-1])[::-1]  # tails[k] = Σ_{i>k} σ_i, the small ones added first.
  # Σ_{i≤k} σ_i ≥ (1 − δ) Σ_i σ_i says that the tail is at most δ of the whole. Tails shrink with k,
  # so the least such k is the number of larger ones. The slack decides exact ties (a hundred equal
  # values, δ = 0.01) as "at most", against the last bits of δ and of the sums.
  slack = 1 + 16 * jnp.finfo(values.dtype).eps
  count = jnp.sum(tails > delta * slack * tails[0]).astype(jnp.float32)
  valid = jnp.all(jnp.isfinite(values) & (values >= 0)) & (delta > 0) & (delta < 1)
  return jnp.where(valid, count, jnp.nan)


_compiled_srank = jax.jit(lambda x, delta: _srank(_spectrum(lax.stop_gradient(x))[0], delta))


def srank(features: ArrayLike, delta: ArrayLike = 0.01) -> jax.Array:
  """Returns the effective rank srank_δ(Φ) = min{k : Σ_{i≤k} σ_i / Σ_i σ_i ≥ 1 − δ} (Section 3).

  A count between 1 and min(n, d), 0 for a zero matrix. Not differentiable: its gradient is 0. With
  δ below about min(n, d) times the dtype's epsilon (6e-5 for float32 and d = 512) rounding errors
  are counted too.

  Args:
    features: [n, d]; the paper uses the penultimate layer on 2048 transitions.
    delta: the share of the spectrum left out, in (0, 1), a number or a traced scalar. A new value
      does not recompile.

  Returns:
    [] float32, a whole number; NaN for non-finite features and for a traced δ outside (0, 1).

  Raises:
    ValueError: the features are not two-dimensional, or δ is known and outside (0, 1).
  """
  return _compiled_srank(_as_array(features, 2, 'features'), _check_delta(delta))


@jax.jit
def _compiled_srank_from_singular_values(values: jax.Array, delta: ArrayLike) -> jax.Array:
  values, _, poison = _normalised(lax.stop_gradient(values))
  return _srank(jnp.sort(values, descending=True) * poison, delta)


def srank_from_singular_values(values: ArrayLike, delta: ArrayLike = 0.01) -> jax.Array:
  """Returns `srank` of a given spectrum, so that no SVD is computed twice.

  Args:
    values: [m] non-negative, in any order: singular values, or |eigenvalues| for srank_{δ,λ}.
    delta: as in `srank`.

  Returns:
    [] float32, a whole number; NaN where a value is negative or not finite.

  Raises:
    ValueError: `values` is not one-dimensional, or δ is known and outside (0, 1).
  """
  values = _as_array(values, 1, 'singular values')
  return _compiled_srank_from_singular_values(values, _check_delta(delta))


def _host_eigenvalue_norms(x: jax.Array) -> jax.Array:
  """Returns |eigenvalues| [d] of a square matrix, computed by NumPy on the host."""
  result = jax.ShapeDtypeStruct(x.shape[:-1], x.dtype)
  compute = lambda m: np.abs(np.linalg.eigvals(np.asarray(m))).astype(m.dtype)
  return jax.pure_callback(compute, result, x, vmap_method='broadcast_all')


@jax.jit
def _compiled_eigenvalue_srank(x: jax.Array, delta: ArrayLike) -> jax.Array:
  x, _, poison = _normalised(lax.stop_gradient(x))
  norms = lax.platform_dependent(
    x, cpu=lambda m: jnp.abs(jnp.linalg.eigvals(m)), default=_host_eigenvalue_norms
  )
  return _srank(jnp.sort(norms, descending=True) * poison, delta)


def eigenvalue_srank(features: ArrayLike, delta: ArrayLike = 0.01) -> jax.Array:
  """Returns srank_{δ,λ}(Φ), which is `srank` with |eigenvalues| of a square Φ (Appendix A.7).

  Accelerators have no eigenvalue solver for general matrices. On the CPU, LAPACK computes the
  eigenvalues inside the compiled program. Elsewhere the matrix is copied to the host, where NumPy
  computes them (`pure_callback`). Eigenvalues of strongly non-normal matrices are ill-conditioned:
  those of a nilpotent matrix are computed as about eps^(1/d) instead of 0, and are counted.

  Args:
    features: [d, d], as many inputs as features.
    delta: as in `srank`.

  Returns:
    [] float32, a whole number; NaN for non-finite features. Its gradient is 0.

  Raises:
    ValueError: the features are not a square matrix, or δ is known and outside (0, 1).
  """
  features = _as_array(features, 2, 'features')
  if features.shape[0] != features.shape[1]:
    raise ValueError(
      f'eigenvalues need a square matrix, got shape {features.shape}; '
      'measure as many inputs as there are features'
    )
  return _compiled_eigenvalue_srank(features, _check_delta(delta))


def _stable_rank(values: jax.Array) -> jax.Array:
  return jnp.sum(_safe_divide(values, values[0]) ** 2)


def _effective_rank(values: jax.Array) -> jax.Array:
  shares = _safe_divide(values, jnp.sum(values))
  present = shares != 0  # NaN counts as present, so that it reaches the result.
  entropy = -jnp.sum(shares * jnp.log(jnp.where(present, shares, 1)))
  return jnp.where(values[0] == 0, 0, jnp.exp(entropy))


def _numerical_rank(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  tolerance = values[0] * max(shape) * jnp.finfo(values.dtype).eps
  count = jnp.sum(values > tolerance).astype(jnp.float32)
  return jnp.where(jnp.isfinite(values[0]), count, jnp.nan)


def _condition_number(values: jax.Array) -> jax.Array:
  singular = values[-1] == 0
  return jnp.where(singular, jnp.inf, values[0] / jnp.where(singular, 1, values[-1]))


@_on_features
def stable_rank(features: ArrayLike) -> jax.Array:
  """Returns ‖Φ‖_F² / σ_max²: [], between 1 and the rank. Differentiable.

  σ_max² is an eigenvalue of the smaller Gram matrix, as in `lp_penalty`: no SVD is needed.
  """
  x, _, poison = _normalised(features)
  largest, _ = _extreme_eigenvalues(x if x.shape[0] <= x.shape[1] else x.T, 'auto')
  return _safe_divide(jnp.sum(x**2), largest) * poison


@_on_features
def effective_rank(features: ArrayLike) -> jax.Array:
  """Returns the entropy rank exp(−Σ_i p_i log p_i), p_i = σ_i / Σ_j σ_j: [], between 1 and m.

  Roy and Vetterli, "The effective rank", EUSIPCO 2007. Differentiable; σ_i = 0 counts as constant.
  """
  return _effective_rank(_spectrum(features)[0])


@jax.jit
def _compiled_effective_rank_from_singular_values(values: jax.Array) -> jax.Array:
  values, _, poison = _normalised(values)
  return _effective_rank(jnp.sort(values, descending=True)) * poison


def effective_rank_from_singular_values(values: ArrayLike) -> jax.Array:
  """Returns `effective_rank` of a given spectrum [m], in any order: []."""
  return _compiled_effective_rank_from_singular_values(_as_array(values, 1, 'singular values'))


@_on_features
def numerical_rank(features: ArrayLike) -> jax.Array:
  """Returns the number of σ_i > σ_max · max(n, d) · eps, as `numpy.linalg.matrix_rank`: [] float32.

  `eps` is that of the computation's dtype, 1.2e-7 for float32. Its gradient is 0.
  """
  return _numerical_rank(_spectrum(lax.stop_gradient(features))[0], features.shape)


def _pca_rank(values: jax.Array) -> jax.Array:
  return _srank(values**2, _PCA_DELTA)


def _feature_rank(values: jax.Array, scale: jax.Array, rows: int) -> jax.Array:
  # The threshold is scaled down, since σ scaled up may overflow.
  count = jnp.sum(values > 0.01 * rows**0.5 / scale).astype(jnp.float32)
  return jnp.where(jnp.isfinite(values[0]), count, jnp.nan)


@_on_features
def pca_rank(features: ArrayLike) -> jax.Array:
  """Returns the number of largest σ² that hold 99% of Σσ²: [] float32, a whole number.

  Without `centred` it counts the mean feature as a direction, as in Moalla et al., "No
  Representation, No Trust", NeurIPS 2024. Its gradient is 0.
  """
  return _pca_rank(_spectrum(lax.stop_gradient(features))[0])


@_on_features
def feature_rank(features: ArrayLike) -> jax.Array:
  """Returns the number of singular values of Φ/√n above 0.01: [] float32, a whole number.

  Lyle et al., "Understanding and Preventing Capacity Loss in Reinforcement Learning", ICLR 2022.
  It depends on the scale of Φ. Published code has left the √n out. Its gradient is 0.
  """
  values, scale = _spectrum(lax.stop_gradient(features))
  return _feature_rank(values, scale, features.shape[0])


@_on_features
def centred(features: ArrayLike) -> jax.Array:
  """Returns Φ minus the mean of its rows: [n, d]. Columns of equal entries become exactly 0."""
  return _centred(features)


def _centred(x: jax.Array) -> jax.Array:
  if 0 in x.shape:
    return x
  x = x - x[:1]  # The mean of equal numbers is rounded; that of zeros is 0.
  return x - jnp.mean(x, axis=0, keepdims=True)


@_on_features
def condition_number(features: ArrayLike) -> jax.Array:
  """Returns σ_max / σ_min, with σ_min the min(n, d)-th singular value: [], from 1 to inf.

  Values above 1 / eps (8e6 for float32) say only "singular to working precision". Differentiable
  where it is finite.
  """
  return _condition_number(_spectrum(features)[0])


@_on_features
def feature_norm(features: ArrayLike) -> jax.Array:
  """Returns the mean Euclidean norm of the rows: []. Differentiable; a zero row has gradient 0."""
  x, scale, poison = _normalised(features)
  squares = jnp.sum(x**2, axis=1)  # [n]
  zero = squares == 0
  norms = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))
  return scale * jnp.mean(norms) * poison


@_on_features
def dead_units(features: ArrayLike) -> jax.Array:
  """Returns the share of units (columns) that are exactly 0 on every row: [] in [0, 1].

  Meant for activations that can be 0, such as ReLU. It is a share, not a count, so that layers of
  different width can be compared. It is 0 if there are no units, and 1 if there are units but no
  rows. Its gradient is 0.
  """
  if features.shape[1] == 0:
    return jnp.zeros((), features.dtype)
  dead = jnp.all(features == 0, axis=0)  # [d]
  return jnp.mean(dead.astype(features.dtype)) * _poison(lax.stop_gradient(features))


@_on_features
def dormancy_scores(activations: ArrayLike) -> jax.Array:
  """Returns each unit's mean |activation| over the rows, divided by the mean over the units: [d].

  A unit is τ-dormant where its score is at most τ (Sokar et al., "The Dormant Neuron Phenomenon in
  Deep Reinforcement Learning", ICML 2023). All scores are 0 where every activation is 0.
  """
  if 0 in activations.shape:
    return jnp.zeros(activations.shape[1:], activations.dtype)
  x, _, poison = _normalised(activations)
  sizes = jnp.mean(jnp.abs(x), axis=0)  # [d]
  return _safe_divide(sizes, jnp.mean(sizes)) * poison


def dormant_units(activations: ArrayLike, threshold: float = 0.025) -> jax.Array:
  """Returns the share of units (columns) whose `dormancy_scores` are at most τ: [] in [0, 1].

  With τ = 0 the dormant units are the `dead_units`. The share is 0 if there are no units. Its
  gradient is 0.

  Args:
    activations: [n, d] after the activation function.
    threshold: τ.
  """
  scores = lax.stop_gradient(dormancy_scores(activations))
  dormant = jnp.where(jnp.isnan(scores), scores, (scores <= threshold).astype(scores.dtype))
  return jnp.mean(dormant) if scores.size else jnp.zeros((), scores.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _extreme_eigenpairs(symmetric: jax.Array, solver: str) -> tuple[jax.Array, jax.Array]:
  """Returns λ_max and λ_min [2] of a matrix [m, m] and unit vectors of each [2, m]."""
  return SOLVERS[solver](symmetric)


@_extreme_eigenpairs.defjvp
def _extreme_eigenpairs_jvp(solver, primals, tangents):
  (symmetric,), (change,) = primals, tangents
  values, ends = _extreme_eigenpairs(symmetric, solver)
  product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  moved = product(ends, change)  # [2, m]
  # du_i = Σ_j u_j (u_jᵀ dG u_i) / (λ_i − λ_j) over all λ_j that differ from λ_i.
  spectrum, basis = jnp.linalg.eigh(symmetric)
  gaps = jnp.stack([spectrum[-1], spectrum[0]])[:, None] - spectrum[None, :]  # [2, m]
  rounding = max(len(symmetric), 16) * jnp.finfo(symmetric.dtype).eps
  repeated = jnp.abs(gaps) <= rounding * jnp.max(jnp.abs(spectrum))
  shares = jnp.where(repeated, 0, product(moved, basis)) / jnp.where(repeated, 1, gaps)
  return (values, ends), (jnp.sum(moved * ends, axis=1), product(shares, basis.T))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _extreme_eigenvalues(wide: jax.Array, solver: str) -> jax.Array:
  """Returns λ_max and λ_min of Φ·Φᵀ for Φ [m, n], m ≤ n: [2]."""
  return _extreme_eigenpairs(_gram(wide), solver)[0]


@_extreme_eigenvalues.defjvp
def _extreme_eigenvalues_jvp(solver, primals, tangents):
  # The derivative of λ is that of |uᵀΦ|² at a fixed u, which costs two rows' work; the general rule
  # for eigenvalues needs products as large as the Gram matrix. Only a second derivative changes u.
  (wide,), (change,) = primals, tangents
  product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  values, ends = _extreme_eigenpairs(_gram(wide), solver)
  return values, 2 * jnp.sum(product(ends, wide) * product(ends, change), axis=1)


def _gram(wide: jax.Array) -> jax.Array:
  """Returns Φ·Φᵀ: [m, n] -> [m, m], without a transposed copy of Φ."""
  return jnp.einsum('in,jn->ij', wide, wide, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames='solver')
def _compiled_lp_penalty(features: jax.Array, solver: str) -> jax.Array:
  x, scale, poison = _normalised(features)
  wide = x if x.shape[0] <= x.shape[1] else x.T
  largest, least = _extreme_eigenvalues(wide, solver)
  return scale * (scale * (largest - least)) * poison


def lp_penalty(features: ArrayLike, solver: str = 'auto') -> jax.Array:
  """Returns the penalty L_p(Φ) = σ_max²(Φ) − σ_min²(Φ) (Section 5, Equation 6): [], at least 0.

  The σ² are the extreme eigenvalues of the smaller Gram matrix: for the paper's minibatch of 32 and
  512 features an eigenproblem of 32 × 32 instead of an SVD. Neither singular vectors nor square
  roots of eigenvalues are differentiated, both of which give NaN on degenerate matrices. With one
  row or one column the penalty is 0; with dead units in a tall Φ σ_min is 0 and σ_max² remains.

  First and second derivatives are exact where σ_max and σ_min are simple, in forward and reverse
  mode. Where one of them repeats they are finite: a subgradient, and the second derivative along
  one of its vectors. Only a second derivative needs all eigenvectors.

  The dtype limits the squares: in float32 the value overflows to inf, and its gradient to inf or
  NaN, once σ_max² − σ_min² passes 3.4e38 (features near 1e19); both underflow to 0 for features
  below 1e-19.

  Args:
    features: [n, d], activations of the training minibatch.
    solver: how the two eigenpairs are found, a key of `eigensolvers.SOLVERS`. All agree to
      rounding. 'auto' is bisection on the CPU, which is the fastest there, and 'eigh' elsewhere,
      where no solver was measured. 'squaring' calls no library.

  Raises:
    ValueError: the features are not two-dimensional, or there is no such solver.
  """
  if solver not in SOLVERS:
    raise ValueError(f'lp_penalty.solver must be one of {", ".join(SOLVERS)}, got {solver!r}.')
  return _compiled_lp_penalty(_as_array(features, 2, 'features'), solver)


@functools.partial(jax.jit, static_argnames=('centred', 'spectra'))
def _compiled_rank_metrics(
  x: jax.Array, delta: ArrayLike, centred: bool, spectra: bool
) -> dict[str, jax.Array]:
  normalised, scale, poison = _normalised(x)
  # Side by side, [1 or 2, …]: the compiler then has one program to make instead of two.
  both = jnp.stack([normalised, _centred(normalised)][: 1 + centred])
  values, scales = jax.vmap(_spectrum)(both)
  values, scales = values * poison, scale * scales
  ranks = {
    'srank': jax.vmap(_srank, (0, None))(values, delta),
    'stable_rank': jax.vmap(_stable_rank)(values),
    'effective_rank': jax.vmap(_effective_rank)(values),
    'numerical_rank': jax.vmap(lambda v: _numerical_rank(v, x.shape))(values),
    'pca_rank': jax.vmap(_pca_rank)(values),
    'feature_rank': jax.vmap(lambda v, s: _feature_rank(v, s, x.shape[0]))(values, scales),
  }
  if spectra:
    ranks['singular_values'] = (values * scales[:, None])[:, : min(x.shape)]
  raw, scale = values[0], scales[0]
  sigma_max, sigma_min = raw[0], raw[-1]
  gap = (sigma_max - sigma_min) * (sigma_max + sigma_min)
  return {
    **{name: each[0] for name, each in ranks.items()},
    **{f'centred_{name}': each[1] for name, each in ranks.items() if centred},
    'condition_number': _condition_number(raw),
    'sigma_max': scale * sigma_max,
    'sigma_min': scale * sigma_min,
    'lp_penalty': scale * (scale * gap),
    'feature_norm': feature_norm(x),
    'dead_units': dead_units(x),
    'dormant_units': dormant_units(x),
  }


def rank_metrics(
  features: ArrayLike,
  delta: ArrayLike = 0.01,
  *,
  centred: bool = True,
  spectra: bool = False,
) -> dict[str, jax.Array]:
  """Returns every measure of this module that applies to any matrix, at the cost of two SVDs.

  The penalty comes from the same SVD, so it differs from `lp_penalty` by rounding.
  `eigenvalue_srank` is not included, since it needs a square matrix.

  Args:
    features: [n, d].
    delta: as in `srank`.
    centred: measure the ranks of `centred(features)` too; if False, one SVD is enough.
    spectra: return the singular values too.

  Returns:
    Scalars named srank, stable_rank, effective_rank, numerical_rank, pca_rank and feature_rank, and
    these with `centred_` before the name; condition_number, sigma_max, sigma_min, lp_penalty,
    feature_norm, dead_units and dormant_units. With `spectra` the arrays singular_values and
    centred_singular_values, [min(n, d)].

  Raises:
    ValueError: the features are not two-dimensional, or δ is known and outside (0, 1).
  """
  features = _as_array(features, 2, 'features')
  return _compiled_rank_metrics(features, _check_delta(delta), centred, spectra)
