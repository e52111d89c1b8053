"""Cases of the rules that move, merge, cut or make axes."""

import jax
import jax.numpy as jnp
from jax import lax

from rule_networks import Case, F


def _pad(low: int, high: int, interior: int = 0, fill: float = 0.0):
    return lambda a: lax.pad(a, jnp.float32(fill), ((0, 0, 0), (low, high, interior)))


def _slice(start: int, limit: int, stride: int = 1):
    return lambda a: lax.slice(a, (0, start), (a.shape[0], limit), (1, stride))


def _both(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.concatenate([a, b], 1)


MOVES = {
    "transpose": (
        Case(lambda a: lax.transpose(a, (1, 0)), (F(3, 3),), "a b -> b a"),
        Case(lambda a: lax.transpose(a, (2, 0, 1)), (F(3, 3, 3),), "a b c -> c a b"),
    ),
    "squeeze": (
        Case(lambda a: lax.squeeze(a, (1,)), (F(3, 1, 3),), "a 1 b -> a b"),
        Case(lambda a: lax.squeeze(a, (0, 2)), (F(1, 3, 1),), "1 a 1 -> a"),
    ),
    "broadcast_in_dim": (
        Case(lambda a: lax.broadcast_in_dim(a, (3, 3), (1,)), (F(3),), "a -> b a"),
        Case(lambda a: lax.broadcast_in_dim(a, (3, 4), (0, 1)), (F(3, 1),), "a 1 -> a b"),
        Case(lambda a: lax.broadcast_in_dim(a, (4, 3, 3), (1, 2)), (F(3, 3),), "a b -> c a b"),
    ),
    "reshape": (
        Case(lambda a: lax.reshape(a, (12,)), (F(3, 4),), "a b -> a*b"),
        Case(lambda a: lax.reshape(a, (3, 4)), (F(12),), "a*b -> a b"),
        Case(lambda a: lax.reshape(a, (3, 3, 3)), (F(3, 9),), "a b*c -> a b c"),
        Case(lambda a: lax.reshape(a, (4, 2, 3)), (F(2, 4, 3),), "a b*c d -> a*b c d"),
        Case(lambda a: lax.reshape(a, (9,), (1, 0)), (F(3, 3),), "a b -> b*a"),
        Case(lambda a: lax.reshape(a, (3, 1, 4)), (F(1, 3, 4),), "1 a b -> a 1 b"),
        Case(lambda a: lax.reshape(_both(a, a), (3, 2, 4)), (F(3, 4),), "a b+b -> a 1+1 b"),
        Case(
            lambda a, b: lax.reshape(_both(a, b), (2, 5, 2)),
            (F(2, 4), F(2, 6)),
            "a (b*c)+(d*c) -> a b+d c",
            forgets="*",
        ),
        Case(
            lambda a, b: lax.reshape(_both(a, b), (2, 2, 4)),
            (F(2, 3), F(2, 5)),
            "a b+1+b+1 -> a 1+1 b+1",
        ),
        Case(lambda a: lax.reshape(a, (6, 4)), (F(4, 6),), ". .*a -> . .*a"),
        Case(lambda a: lax.reshape(a, (3, 2)), (F(2, 3),), ". . -> . ."),
    ),
    "rev": (Case(lambda a: lax.rev(a, (1,)), (F(3, 3),), "a . -> a ."),),
    "tile": (
        Case(lambda a: lax.tile(a, (1, 3)), (F(3, 3),), "a b -> a c*b"),
        Case(lambda a: lax.tile(a, (2, 1)), (F(3, 4),), "a b -> c*a b"),
    ),
    "bitcast_convert_type": (
        Case(lambda a: lax.bitcast_convert_type(a, jnp.uint32), (F(3, 3),), "a b -> a b"),
        Case(lambda a: lax.bitcast_convert_type(a, jnp.uint16), (F(3, 3),), ". . -> . . ."),
    ),
}

PIECES = {
    "concatenate": (
        Case(_both, (F(3, 3), F(3, 3)), "a b, a c -> a b+c"),
        Case(_both, (F(3, 3), F(3, 4)), "a b, a c -> a b+c"),
        Case(lambda a: lax.concatenate([a, a], 0), (F(3, 3),), "a b, a b -> a+a b"),
        Case(
            lambda a: lax.concatenate([a, lax.full((3, 2), 0.0)], 1),
            (F(3, 3),),
            "a b, a c -> a b+c",
        ),
        Case(lambda a: lax.concatenate([a, a + 1], 1), (F(3, 3),), "a b, a b -> a b+b"),
        Case(_both, (F(2, 2, 3), F(2, 4, 3)), "a b c, a d c -> a b+d c"),
    ),
    "split": (
        Case(lambda a: lax.split(a, (3, 4), 1), (F(3, 7),), "a b+c -> a b, a c"),
        Case(lambda a: lax.split(a, (3, 3), 0), (F(6, 3),), "a+b c -> a c, b c"),
        Case(
            lambda a, b: lax.split(_both(a, b), (2, 5), 1),
            (F(3, 3), F(3, 4)),
            "a b+1+c -> a b, a 1+c",
            forgets="*",
        ),
    ),
    "unstack": (
        Case(lambda a: lax.unstack(a, 1), (F(3, 2, 3),), "a 1+1 b -> a b, a b"),
        Case(lambda a: lax.unstack(a, 0), (F(2, 3),), "1+1 a -> a, a"),
    ),
    "stack": (
        Case(lambda a, b: jnp.stack([a, b], 1), (F(3, 3), F(3, 3)), "a b, a b -> a . b"),
        Case(lambda a: jnp.stack([a, a + 1]), (F(3),), "a, a -> . a"),
    ),
    "slice": (
        Case(_slice(0, 3), (F(3, 6),), "a b+. -> a b"),
        Case(_slice(2, 5), (F(3, 7),), "a .+b+. -> a b"),
        Case(_slice(1, 6, 3), (F(3, 6),), "a b*. -> a b"),
        Case(_slice(0, 6, 2), (F(3, 6),), "a b*. -> a b"),
        Case(_slice(1, 6, 2), (F(3, 7),), "a . -> a ."),
        Case(lambda a, b: _slice(2, 6)(_both(a, b)), (F(3, 4), F(3, 4)), "a .+b+c+. -> a b+c"),
        Case(
            lambda a: _slice(4, 8)(lax.reshape(a, (3, 12))),
            (F(3, 6, 2),),
            "a (.+b+.)*c -> a b*c",
        ),
        Case(
            lambda a: _slice(3, 8)(lax.reshape(a, (3, 12))),
            (F(3, 6, 2),),
            "a (1+1+b+.)*(1+1) -> a 1+(b*(1+1))",
        ),
    ),
    "pad": (
        Case(_pad(3, 0), (F(3, 3),), "a b, () -> a c+b"),
        Case(_pad(2, 4), (F(3, 3),), "a b, () -> a c+b+d"),
        Case(_pad(0, 2, fill=1.0), (F(3, 3),), "a b, () -> a b+c"),
        Case(_pad(0, 0, 1), (F(3, 3),), "a ., () -> a ."),
        Case(_pad(-1, 2), (F(3, 3),), "a ., () -> a ."),
        Case(_pad(0, 0), (F(3, 3),), "a b, () -> a b"),
    ),
}

MADE = {
    "iota": (
        Case(lambda: lax.broadcasted_iota(jnp.float32, (3, 4), 1), (), " -> a ."),
        Case(lambda: lax.iota(jnp.int32, 3), (), " -> ."),
    ),
    "empty": (Case(lambda: lax.empty((3, 4), jnp.float32), (), " -> a b", forgets="ab"),),
}

CASES = MOVES | PIECES | MADE
