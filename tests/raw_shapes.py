"""Blocks of raw programs: reshapes, transposes, concatenations, splits, pads."""

import jax.numpy as jnp
from jax import lax


def reshape_chain(h, make):
    n, t, c = h.shape
    steps = {
        "flat": [(n * t * c,), (n, t * c), (n, t, c)],
        "rows": [(n * t, c), (n, t, 1, c), (n, t, c)],
        "places": [(n, 2, t // 2, c), (2 * n, t // 2, c), (n, t, c)],
    }[make.choice("flat", "rows", "places")]
    for shape in steps:
        h = h.reshape(shape)
    return h


def reshape_heads(h, make):
    """A channel shuffle, or its inverse."""
    h = make.even(h)
    shape = make.choice((2, -1), (-1, 2))
    return h.reshape(*h.shape[:2], *shape).swapaxes(-1, -2).reshape(*h.shape[:2], -1)


def reshape_into_places(h, make):
    """Half of the channels become places."""
    h = make.even(h)
    n, t, c = h.shape
    out = h.reshape(n, 2 * t, c // 2)
    return out[:, :t] + jnp.tanh(out[:, t:])


def reshape_by_order(h, make):
    """Fortran order: the channels are innermost in the first reshape only."""
    n, t, c = h.shape
    return jnp.reshape(jnp.reshape(h, (n * t, c), order="F"), (n, t, c), order="F")


def flattened(h, make):
    n, t, c = h.shape
    w = make.variable(t * c, t)
    g = h.reshape(n, t * c) @ w
    return h * jnp.tanh(g)[:, :, None]


def flattened_transposed(h, make):
    """Channels outermost, as in NCHW."""
    n, t, c = h.shape
    flat = jnp.swapaxes(h, 1, 2).reshape(n, c * t)
    return jnp.tanh(flat @ make.variable(c * t, 6))[:, None] + make.dense(h, 6)


def transposes(h, make):
    order = make.permutation(3)
    inverse = [order.index(axis) for axis in range(3)]
    return make.activation(jnp.transpose(h, order)).transpose(inverse)


def concatenated(h, make):
    """Uneven parts, one of them of a single channel."""
    parts = [h, make.dense(h, 5), make.dense(h, 1)]
    return jnp.concatenate([parts[i] for i in make.permutation(3)], axis=-1)


def concatenated_places(h, make):
    g = make.dense(h, h.shape[-1])
    return jnp.concatenate([h[:, :3], g[:, 3:]], axis=1)


def concatenated_constant(h, make):
    """A constant channel beside the others."""
    one = jnp.ones((*h.shape[:2], 1), h.dtype)
    return make.dense(jnp.concatenate([h, one], axis=-1), make.width())


def dense_connections(h, make):
    for _ in range(2):
        h = jnp.concatenate([h, jnp.tanh(make.dense(h, 3))], axis=-1)
    return h


def split_unevenly(h, make):
    h = make.even(h)
    at = make.choice((1,), (3,), (1, 3))
    parts = jnp.split(h, at, axis=-1)
    parts = [make.dense(part, 3) for part in parts] if make.choice(True, False) else parts[::-1]
    return jnp.concatenate(parts, axis=-1)


def split_by_size(h, make):
    h = make.even(h)
    a, b = jnp.split(h, 2, axis=-1)
    return make.activation(a) * b if make.choice(True, False) else jnp.concatenate([b, a, b], -1)


def lax_split(h, make):
    h = make.dense(h, 8)
    a, b, c = lax.split(h, (2, 5, 1), axis=2)
    return jnp.concatenate([make.dense(b, 4) * c, a], axis=-1)


def unstacked(h, make):
    h = make.dense(h, 6)
    a, b, c = jnp.unstack(h.reshape(*h.shape[:2], -1, 3), axis=-1)
    return jnp.stack([a * b, c], axis=make.choice(-1, -2)).reshape(*h.shape[:2], -1)


def every_second(h, make):
    h = make.even(h)
    step = make.choice(slice(0, None, 2), slice(1, None, 2), slice(None, None, -1))
    return h[..., step]


def first_channels(h, make):
    h, count = make.dense(h, 8), make.choice(3, 5)
    return h[..., :count] + h[..., -count:]


def residual(h, make):
    return h + make.dense(make.activation(make.dense(h, make.width())), h.shape[-1])


def padded_channels(h, make):
    """A shortcut whose new channels are zero."""
    low, high = make.choice((0, 2), (1, 1), (2, 0))
    wide = lax.pad(h, jnp.zeros((), h.dtype), ((0, 0, 0), (0, 0, 0), (low, high, 0)))
    return wide + make.dense(h, h.shape[-1] + 2)


def padded_negative(h, make):
    h = make.dense(h, 6)
    low, high = make.choice((-1, 0), (0, -2), (-2, 3))
    return lax.pad(h, jnp.zeros((), h.dtype), ((0, 0, 0), (-1, 1, 0), (low, high, 0)))


def padded_interior(h, make):
    """Zeros, or another value, between channels."""
    value = make.choice(0.0, 0.0, 0.5)
    wide = lax.pad(
        h, jnp.asarray(value, h.dtype), ((0, 0, 0), (0, 0, 0), (0, make.choice(0, 1), 1))
    )
    return make.activation(make.dense(wide, make.width()))


def padded_interior_places(h, make):
    wide = lax.pad(h, jnp.zeros((), h.dtype), ((0, 0, 0), (0, 1, 1), (0, 0, 0)))
    return wide[:, :8] + wide[:, 8:]


def padded_places(h, make):
    mode = make.choice("edge", "reflect", "wrap", "symmetric", "constant", "linear_ramp")
    return jnp.pad(h, ((0, 0), (1, 1), (0, 0)), mode=mode)[:, :8]


def padded_edge_channels(h, make):
    mode = make.choice("edge", "reflect", "wrap")
    return make.dense(jnp.pad(h, ((0, 0), (0, 0), (1, 1)), mode=mode), make.width())


def padded_with_value(h, make):
    """The padding is a variable."""
    value = make.variable()
    return make.dense(lax.pad(h, value, ((0, 0, 0), (0, 0, 0), (1, 0, 0))), make.width())


def rolled(h, make):
    axis = make.choice(1, 2)
    return h + jnp.roll(h, make.choice(1, -2), axis=axis)


def flipped(h, make):
    return jnp.flip(h, axis=make.choice(1, 2))


def tiled(h, make):
    return jnp.tile(h, (1, 1, 2)) if make.choice(True, False) else jnp.repeat(h, 2, axis=-1)


def broadcast(h, make):
    g = jnp.broadcast_to(make.vector(h), h.shape)
    return jnp.tanh(h) * g + lax.broadcast_in_dim(make.vector(h), h.shape, (2,))


def expanded(h, make):
    g = jnp.expand_dims(h, (1, 4))
    return jnp.squeeze(make.activation(g), (1, 4))


def stacked_then_summed(h, make):
    axis = make.choice(0, 1, 2, 3)
    return jnp.stack([make.dense(h, 6) for _ in range(3)], axis=axis).sum(axis)


def squared_outer_sum(h, make):
    """Each with each: h[c] + g[d]."""
    h, g = make.dense(h, 3), make.dense(h, 4)
    both = h[..., :, None] + g[..., None, :]
    return jnp.tanh(both).reshape(*h.shape[:2], -1)


def block_diagonal(h, make):
    h = make.dense(h, 8)
    w = [make.variable(4, 3), make.variable(4, 5)]
    return h @ jnp.block([[w[0], jnp.zeros((4, 5), h.dtype)], [jnp.zeros((4, 3), h.dtype), w[1]]])
