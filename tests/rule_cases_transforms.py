"""Cases of Fourier transforms, factorizations and solves."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg

from rule_networks import C, Case, F, I


def _fft(kind: lax.FftType, *lengths: int) -> Any:
    return lambda a: lax.fft_p.bind(a, fft_type=kind, fft_lengths=lengths)


def _definite(a: jax.Array) -> jax.Array:
    """A positive definite matrix for every row of `a`, zero for a row of zeros."""
    kernel = jnp.array([[2.0, 0.5, 0.1], [0.5, 3.0, 0.2], [0.1, 0.2, 4.0]])
    return a[:, None, None] * kernel[None]


def _singular_values_first(a: jax.Array) -> Any:
    u, s, vt = linalg.svd(_definite(a), full_matrices=False)
    return s, u, vt


def _eigenvalues(a: jax.Array) -> Any:
    """Eigenvalues of matrices that have too few eigenvectors for a row of zeros."""
    nilpotent = jnp.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]])
    matrices = _definite(a) + nilpotent[None]
    return linalg.eig(matrices, compute_left_eigenvectors=False, compute_right_eigenvectors=False)


FFT = (
    Case(_fft(lax.FftType.FFT, 4), (C(3, 4),), "a . -> a ."),
    Case(_fft(lax.FftType.IFFT, 3, 4), (C(2, 3, 4),), "a . . -> a . ."),
    Case(_fft(lax.FftType.RFFT, 5), (F(3, 5),), "a . -> a ."),
    Case(_fft(lax.FftType.RFFT, 4, 4), (F(3, 4, 4),), "a . . -> a . ."),
    Case(_fft(lax.FftType.IRFFT, 5), (C(4, 3, 3),), "a b . -> a b ."),
    Case(_fft(lax.FftType.IRFFT, 4), (C(3, 3),), "a . -> a ."),
)

BATCHED = {
    "cholesky": (
        Case(
            lambda a: linalg.cholesky(_definite(a), symmetrize_input=False),
            (F(4),),
            "a . . -> a . . !! a",
        ),
    ),
    "eigh": (
        Case(
            lambda a: linalg.eigh(_definite(a), symmetrize_input=False),
            (F(4),),
            "a . . -> a . ., a . !! a",
            grad=True,
        ),
    ),
    "eig": (Case(_eigenvalues, (F(4),), "a . . -> a . !! a", forgets="a", grad=True),),
    "lu": (
        Case(
            lambda a: linalg.lu(_definite(a)),
            (F(4),),
            "a . . -> a . ., a ., a . !! a",
            grad=True,
        ),
    ),
    "qr": (
        Case(
            lambda a: linalg.qr(_definite(a), full_matrices=False),
            (F(4),),
            "a . . -> a . ., a . . !! a",
            grad=True,
        ),
    ),
    "svd": (
        Case(
            _singular_values_first,
            (F(4),),
            "a . . -> a ., a . ., a . . !! a",
            grad=True,
        ),
    ),
    "lu_pivots_to_permutation": (
        Case(
            lambda a: linalg.lu_pivots_to_permutation(a[:, None] % 2 + jnp.zeros((1, 2), int), 3),
            (I(3),),
            "a . -> a .",
        ),
    ),
}


def _solve(**options: Any) -> Any:
    options = {"left_side": True, "lower": True} | options
    return lambda a, b: linalg.triangular_solve(a, b, **options)


SOLVES = {
    "triangular_solve": (
        Case(_solve(), (F(3, 3), F(3, 4)), ". ., . a -> . a"),
        Case(_solve(left_side=False, lower=False), (F(3, 3), F(4, 3)), ". ., a . -> a ."),
        Case(
            _solve(transpose_a=True),
            (F(3, 2, 2), F(3, 2, 3)),
            "a . ., a . b -> a . b !! a",
            forgets="*",
        ),
        Case(
            _solve(unit_diagonal=True),
            (F(3, 2, 2), F(3, 2, 3)),
            "a . ., a . b -> a . b",
            forgets="*",
        ),
    ),
    "tridiagonal_solve": (
        Case(
            linalg.tridiagonal_solve,
            (F(3, 3), F(3, 3), F(3, 3), F(3, 3, 4)),
            "a ., a ., a ., a . b -> a . b !! a",
            forgets="*",
        ),
    ),
}

CASES = {"fft": FFT} | BATCHED | SOLVES
