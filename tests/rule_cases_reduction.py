"""Cases of reductions, windows, running sums and orderings."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rule_networks import B, Case, F, I

REDUCE = {
    "reduce_sum": (
        Case(lambda a: lax.reduce_sum(a, (1,)), (F(3, 3),), "a b -> a ! b"),
        Case(lambda a: lax.reduce_sum(a, (0, 2)), (F(3, 3, 3),), "a b c -> b ! ac"),
    ),
    "reduce_max": (Case(lambda a: lax.reduce_max(-a, (1,)), (F(3, 3),), "a b -> a !! b"),),
    "reduce_min": (Case(lambda a: lax.reduce_min(a, (0,)), (F(3, 3),), "a b -> b !! a"),),
    "reduce_prod": (Case(lambda a: lax.reduce_prod(a, (1,)), (F(3, 3),), "a b -> a !! b"),),
    "reduce_and": (Case(lambda a: lax.reduce_and(a, (1,)), (B(3, 3),), "a b -> a !! b"),),
    "reduce_or": (
        Case(lambda a: lax.reduce_or(a, (1,)), (B(3, 3),), "a b -> a ! b"),
        Case(lambda a: lax.reduce_or(a, (0,)), (I(3, 3),), "a b -> b ! a"),
    ),
    "reduce_xor": (
        Case(
            lambda a: lax.reduce(a, np.int32(0), lax.bitwise_xor, (1,)),
            (I(3, 3),),
            "a b -> a ! b",
            forgets="*",
        ),
    ),
    "argmax": (
        Case(
            lambda a: lax.argmax(lax.cumsum(a, 1), 1, jnp.int32),
            (F(3, 3),),
            "a . -> a",
            forgets="*",
        ),
    ),
    "argmin": (
        Case(
            lambda a: lax.argmin(lax.cumsum(a, 1, True), 1, jnp.int32),
            (F(3, 3),),
            "a . -> a",
            forgets="*",
        ),
    ),
    "reduce": (
        Case(
            lambda a: lax.reduce(a, np.float32(0), lambda x, y: x + 2 * y, (1,)),
            (F(3, 3),),
            "a ., () -> a",
            forgets="a",
        ),
        Case(
            lambda a, b: lax.reduce(
                (a, b),
                (np.float32(0), np.float32(0)),
                lambda x, y: (x[0] + y[0], x[1] + y[1]),
                (0,),
            ),
            (F(3, 3), F(3, 3)),
            ". a, . a, (), () -> a, a",
            forgets="a",
        ),
    ),
}


def _window(reducer, init: float, padding: str = "VALID"):
    return lambda a: lax.reduce_window(a, np.float32(init), reducer, (1, 2, 1), (1, 1, 1), padding)


def _strided(a: jax.Array) -> jax.Array:
    return lax.reduce_window(a, np.float32(-np.inf), lax.max, (1, 1, 1), (1, 2, 1), "VALID")


def _dilated(a: jax.Array) -> jax.Array:
    return lax.reduce_window(
        a, np.float32(0), lax.add, (1, 2, 1), (1, 1, 1), "SAME", base_dilation=(1, 2, 1)
    )


def _pair(x: tuple, y: tuple) -> tuple:
    return x[0] + y[0], lax.max(x[1], y[1])


WINDOW = {
    "reduce_window_sum": (
        Case(_window(lax.add, 0), (F(3, 4, 3),), "a . b -> a . b"),
        Case(_dilated, (F(3, 4, 3),), "a . b -> a . b"),
    ),
    "reduce_window_max": (
        Case(_window(lax.max, -np.inf, "SAME"), (F(3, 4, 3),), "a . b -> a . b"),
        Case(_strided, (F(3, 4, 3),), "a . b -> a . b"),
    ),
    "reduce_window_min": (Case(_window(lax.min, np.inf), (F(3, 4, 3),), "a . b -> a . b"),),
    "reduce_window": (Case(_window(lax.mul, 1), (F(2, 4, 3),), ". . ., () -> . . .", forgets="*"),),
}

RUNNING = {
    name: (
        Case(
            lambda a, f=fn: f(a, 1), (F(3, 3),), f"a b -> a b {mark} b", forgets=f"{lost and 'b'}*"
        ),
        Case(
            lambda a, f=fn: f(a, 0, True),
            (F(3, 3),),
            f"a b -> a b {mark} a",
            forgets=f"{lost and 'a'}*",
        ),
    )
    for name, fn, mark, lost in (
        ("cumsum", lax.cumsum, "!", ""),
        ("cumprod", lax.cumprod, "!!", "lost"),
        ("cummax", lambda a, *axis: lax.cummax(-a, *axis), "!!", "lost"),
        ("cummin", lax.cummin, "!!", "lost"),
        ("cumlogsumexp", lax.cumlogsumexp, "!!", ""),
    )
}

ORDER = {
    "sort": (
        Case(lambda a: lax.sort(a, dimension=1), (F(3, 3),), "a . -> a ."),
        Case(
            lambda a, b: lax.sort((a, b), dimension=0, num_keys=1),
            (F(3, 3), F(3, 3)),
            ". a, . a -> . a, . a",
        ),
    ),
    "top_k": (Case(lambda a: lax.top_k(a, 2), (F(3, 4),), "a . -> a ., a .", forgets="*"),),
    "approx_top_k": (
        Case(lambda a: lax.approx_max_k(a, 2), (F(3, 4),), "a . -> a ., a .", forgets="*"),
        Case(
            lambda a: lax.approx_min_k(a, 2, reduction_dimension=0),
            (F(4, 3),),
            ". a -> . a, . a",
            forgets="*",
        ),
    ),
}

CASES = REDUCE | WINDOW | RUNNING | ORDER
