"""Cases of gather, scatter and dynamic slices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rule_networks import Case, F, I

ROWS = np.array([2, 0])


def _take(axis: int, indices: Any = ROWS, **options: Any):
    """One gather, written out: every other axis is taken whole."""

    def take(a: jax.Array) -> jax.Array:
        other = tuple(i for i in range(a.ndim) if i != axis)
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(i + (i > axis and np.ndim(indices) - 1) for i in other),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
        )
        sizes = tuple(1 if i == axis else n for i, n in enumerate(a.shape))
        starts = np.asarray(indices, np.int32)[..., None]
        return lax.gather(a, starts, dims, sizes, mode=options.pop("mode", "clip"), **options)

    return take


def _gather(dims: lax.GatherDimensionNumbers, sizes: tuple, starts: Any, **options: Any):
    options = {"mode": "clip", **options}
    return lambda a: lax.gather(a, np.asarray(starts, np.int32), dims, sizes, **options)


BATCHED = lax.GatherDimensionNumbers(
    offset_dims=(1,),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0,),
    start_indices_batching_dims=(0,),
)
WINDOW = lax.GatherDimensionNumbers(
    offset_dims=(0, 1), collapsed_slice_dims=(), start_index_map=(1,)
)
COLUMN = lax.GatherDimensionNumbers(
    offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,)
)
ROW = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))

ADD_ROWS = lax.ScatterDimensionNumbers(
    update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)
ADD_PIECE = lax.ScatterDimensionNumbers(
    update_window_dims=(0, 1), inserted_window_dims=(), scatter_dims_to_operand_dims=(1,)
)
ADD_BATCHED = lax.ScatterDimensionNumbers(
    update_window_dims=(1,),
    inserted_window_dims=(1,),
    scatter_dims_to_operand_dims=(1,),
    operand_batching_dims=(0,),
    scatter_indices_batching_dims=(0,),
)
TWO = np.array([[2], [0]], np.int32)


def _scatter(fn: Any, dims: lax.ScatterDimensionNumbers = ADD_ROWS, where: Any = TWO):
    return lambda a, b: fn(a, where, b, dims, mode="clip")


GATHER = {
    "gather": (
        Case(_take(0), (F(3, 3),), ". a, . 1 -> . a"),
        Case(_take(1), (F(3, 3),), "a ., . 1 -> a ."),
        Case(_take(1, [[0, 1, 2], [2, 0, 1]]), (F(3, 3, 3),), "a . b, . . 1 -> a . . b"),
        Case(_take(0, [2, 0, 7], mode="fill", fill_value=1), (F(3, 3),), ". a, . 1 -> . a"),
        Case(
            _take(0, [2, 0, 7], mode="fill", fill_value=0),
            (F(3, 3),),
            ". a, . 1 -> . a",
            forgets="*",
        ),
        Case(
            lambda a: _gather(BATCHED, (1, 1, 4), [[2], [0], [1]])(a),
            (F(3, 3, 4),),
            ". . a, . 1 -> . a",
        ),
        Case(_gather(WINDOW, (3, 3), [2]), (F(3, 8),), "a b+c+d, 1 -> a c"),
        Case(_gather(WINDOW, (3, 3), [7]), (F(3, 8),), "a ., 1 -> a ."),
        Case(_gather(COLUMN, (3, 1), [3]), (F(3, 8),), "a b+1+c, 1 -> a"),
        Case(
            lambda a, i: lax.gather(a, i[None], WINDOW, (3, 2), mode="clip"),
            (F(3, 8), I()),
            "a ., 1 -> a .",
        ),
        Case(
            lambda a, b: lax.gather(
                a, lax.convert_element_type(b, jnp.int32)[:, None], ROW, (1, 4), mode="clip"
            ),
            (F(3, 4), F(3)),
            ". a, b 1 -> b a",
        ),
    ),
    "dynamic_slice": (
        Case(lambda a: lax.dynamic_slice(a, (0, 2), (3, 3)), (F(3, 8),), "a b+c+d, (), () -> a c"),
        Case(lambda a: lax.dynamic_slice(a, (1, 0), (1, 4)), (F(3, 4),), "1+1+1 a, (), () -> 1 a"),
        Case(lambda a: lax.dynamic_slice(a, (0, 9), (3, 5)), (F(3, 8),), "a b+c, (), () -> a c"),
        Case(
            lambda a: lax.dynamic_slice(a, (0, -7), (3, 3)),
            (F(3, 8),),
            "a 1+b+c, (), () -> a b",
        ),
        Case(
            jax.jit(lambda a, i: lax.dynamic_slice_in_dim(a, i, 2, 1)),
            (F(3, 8), I()),
            "a ., (), () -> a .",
        ),
        Case(
            lambda a: jax.jit(lambda a, i: lax.dynamic_slice_in_dim(a, i, 2, 1))(a, 2),
            (F(3, 8),),
            "a b+c+d, (), () -> a c",
        ),
    ),
    "dynamic_update_slice": (
        Case(
            lambda a, b: lax.dynamic_update_slice(a, b, (0, 2)),
            (F(3, 8), F(3, 3)),
            "a b+c+d, a c, (), () -> a b+c+d",
            forgets="*",
        ),
        Case(
            lambda a, b: lax.dynamic_update_slice(a, b, (2, 0)),
            (F(5, 6), F(2, 4)),
            "a+b+1 c+d, b c, (), () -> a+b+1 c+d",
            forgets="*",
        ),
        Case(
            lambda a, b, i: lax.dynamic_update_slice_in_dim(a, b, i, 1),
            (F(3, 3), F(3, 2), I()),
            "a ., a ., (), () -> a .",
        ),
        Case(
            lambda a, b: lax.dynamic_update_slice(a, b, (0, 0)),
            (F(3, 3), F(3, 3)),
            "a b, a b, (), () -> a b",
            forgets="*",
        ),
    ),
}

SCATTER = {
    f"scatter{suffix}": (
        Case(_scatter(fn), (F(3, 3), F(2, 3)), ". a, . 1, . a -> . a", forgets="*"),
        Case(
            _scatter(fn, ADD_PIECE, np.array([2], np.int32)),
            (F(3, 8), F(3, 3)),
            "a b+c+d, 1, a c -> a b+c+d",
            forgets="*",
        ),
    )
    for suffix, fn in (
        ("", lax.scatter),
        ("-add", lax.scatter_add),
        ("-sub", lax.scatter_sub),
        ("-mul", lax.scatter_mul),
        ("-min", lax.scatter_min),
        ("-max", lax.scatter_max),
    )
}
SCATTER["scatter-add"] += (
    Case(
        lambda a: jnp.zeros(2).at[(a > 0.5).astype(jnp.int32)].add(a),
        (F(3),),
        "., a 1, a -> . ! a",
        forgets="*",
    ),
    Case(
        _scatter(lax.scatter_add, ADD_PIECE, np.array([6], np.int32)),
        (F(3, 8), F(3, 3)),
        "a ., 1, a . -> a .",
        forgets="*",
    ),
    Case(
        lambda a, b: a.at[1:3, 2:5].add(b),
        (F(5, 8), F(2, 3)),
        "1+a+b c+d+e, 1+1, a d -> 1+a+b c+d+e",
        forgets="*",
    ),
    Case(
        lambda a, b: a.at[:, 3].add(b),
        (F(3, 8), F(3)),
        "a b+1+c, 1, a -> a b+1+c",
        forgets="*",
    ),
    Case(
        lambda a, b, i: a.at[:, i].add(b),
        (F(3, 8), F(3), I()),
        "a ., 1, a -> a .",
        forgets="*",
    ),
    Case(
        _scatter(lax.scatter_add, ADD_BATCHED, np.array([[2], [0], [1]], np.int32)),
        (F(3, 3, 4), F(3, 4)),
        ". . a, . 1, . a -> . . a",
        forgets="*",
    ),
)

CASES = GATHER | SCATTER
