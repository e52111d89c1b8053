"""Cases of sparse arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from rule_networks import Case, F, I

PLACES = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])


def _times(contract: Any, batch: Any = ((), ()), places: Any = PLACES) -> Any:
    """A sparse matrix of given numbers, or one for each of a batch, times a dense array."""

    def times(data: jax.Array, dense: jax.Array) -> jax.Array:
        matrix = sparse.BCOO((data, places), shape=(*data.shape[:-1], 3, 3))
        return sparse.bcoo_dot_general(matrix, dense, dimension_numbers=(contract, batch))

    return times


def _stored(fn: Callable[..., Any], **options: Any) -> Any:
    """What a function of a sparse matrix gives, given its numbers and where they are."""

    def stored(data: jax.Array, places: jax.Array) -> Any:
        return jax.tree.leaves(fn(sparse.BCOO((data, places), shape=(6, 6)), **options))

    return stored


def _extract(places: jax.Array, dense: jax.Array) -> Any:
    pattern = sparse.BCOO((jnp.zeros(4), places), shape=(6, 6))
    return sparse.bcoo_extract(pattern, dense).data


MOVED = "., . . -> ., . ."

CASES = {
    "bcoo_dot_general": (
        Case(_times(((1,), (0,))), (F(4), F(3, 4)), "., . ., . a -> . a"),
        Case(_times(((0,), (1,))), (F(4), F(4, 3)), "., . ., a . -> . a"),
        Case(
            _times(((2,), (1,)), ((0,), (0,)), np.stack([PLACES, PLACES])),
            (F(2, 4), F(2, 3, 4)),
            ". ., . . ., . . a -> . . a",
        ),
        Case(_times(((0, 1), (2, 0))), (F(4), F(3, 4, 3)), "., . ., . a . -> a"),
    ),
    "bcoo_transpose": (
        Case(_stored(sparse.bcoo_transpose, permutation=(1, 0)), (F(4), I(4, 2)), MOVED),
    ),
    "bcoo_sort_indices": (Case(_stored(sparse.bcoo_sort_indices), (F(4), I(4, 2)), MOVED),),
    "bcoo_sum_duplicates": (
        Case(_stored(sparse.bcoo_sum_duplicates, nse=4), (F(4), I(4, 2)), MOVED),
    ),
    "bcoo_todense": (Case(_stored(sparse.bcoo_todense), (F(4), I(4, 2)), "., . . -> . ."),),
    "bcoo_fromdense": (
        Case(
            lambda a: jax.tree.leaves(sparse.bcoo_fromdense(a, nse=4)),
            (F(3, 3),),
            ". . -> ., . .",
        ),
    ),
    "bcoo_extract": (Case(_extract, (I(4, 2), F(6, 6)), ". ., . . -> ."),),
}
