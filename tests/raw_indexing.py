"""Blocks of raw programs: gathers, scatters, cumulative operations, indices, sorts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from raw_make import IDS, one_zero


def embedding(h, make):
    table = make.variable(IDS, h.shape[-1])
    return h + table[make.ids]


def embedding_taken(h, make):
    table = make.variable(make.width(), IDS)
    taken = jnp.take(table, make.ids, axis=1, mode=make.choice("clip", "fill", "wrap"))
    return jnp.moveaxis(taken, 0, -1) * h.sum(-1, keepdims=True)


def embedding_tied(h, make):
    """The table is the last kernel too."""
    table = make.variable(IDS, h.shape[-1])
    logits = (h + table[make.ids]) @ table.T
    return make.dense(jnp.tanh(logits), make.width())


def one_hot_ids(h, make):
    hot = jax.nn.one_hot(make.ids, IDS, dtype=h.dtype)
    return h + hot @ make.variable(IDS, h.shape[-1])


def integer_leaf(h, make):
    """A variable of integers, one a channel, scales."""
    steps = make.given(lambda random: random.integers(1, 5, h.shape[-1]).astype(np.int32))
    return h * steps / 4


def integer_kernel(h, make):
    """A quantized kernel with a scale a channel."""
    shape = (h.shape[-1], make.width())
    w = make.given(lambda random: random.integers(-127, 128, shape).astype(np.int8))
    return (h @ w.astype(h.dtype)) * make.variable(w.shape[1], scale=0.01)


def integer_positions(h, make):
    """A variable of integers says which place every channel reads."""
    places = make.given(lambda random: random.integers(0, 8, h.shape[-1]).astype(np.int32))
    index = jnp.broadcast_to(places[None, None], (h.shape[0], 1, h.shape[-1]))
    return h + jnp.take_along_axis(h, index, axis=1)


def integer_order(h, make):
    """A variable of integers says which channel is read."""
    channels = h.shape[-1]
    order = make.given(lambda random: random.permutation(channels).astype(np.int32))
    return h[..., order]


def boolean_leaf(h, make):
    chosen = make.given(lambda random: random.random(h.shape[-1]) < 0.6)
    return jnp.where(chosen, h, 0.1 * h)


def permuted_channels(h, make):
    h = make.dense(h, 6)
    return h[..., np.array(make.permutation(6))]


def repeated_channels(h, make):
    h = make.dense(h, 6)
    return jnp.take(h, np.array(make.integers(5, 6)), axis=-1)


def permuted_places(h, make):
    return h[:, np.array(make.permutation(8))]


def set_place(h, make):
    new = make.vector(h)
    return h.at[:, make.choice(0, 3)].set(new)


def added_at_places(h, make):
    places = np.array(make.integers(3, 8))
    return h.at[:, places].add(make.variable(3, h.shape[-1]))


def multiplied_at(h, make):
    return h.at[:, 2:5].multiply(make.vector(h))


def set_channel(h, make):
    h = make.dense(h, 6)
    return h.at[..., make.choice(0, 2)].set(make.choice(0.0, 1.0))


def added_channels(h, make):
    """Some channels are added to others."""
    h = make.dense(h, 6)
    return h.at[..., np.array(make.integers(3, 6))].add(h[..., :3])


def written_window(h, make):
    """Some channels are written into a run of others, or multiply them."""
    h, new = make.dense(h, 8), make.dense(h, 3)
    window = h.at[..., 2:5]
    return {"set": window.set, "add": window.add, "multiply": window.multiply}[
        make.choice("set", "add", "multiply")
    ](new)


def updated_window(h, make):
    h, new = make.dense(h, 8), make.dense(h, 3)
    h = lax.dynamic_update_slice_in_dim(h, new, make.choice(0, 2, 5), axis=2)
    return lax.dynamic_slice_in_dim(h, make.choice(0, 1), 7, axis=2)


def scattered_by_ids(h, make):
    rows = (
        jnp.zeros((IDS, h.shape[-1]), h.dtype)
        .at[make.ids.reshape(-1)]
        .add(h.reshape(-1, h.shape[-1]))
    )
    return h + jnp.tanh(rows)[make.ids]


def scattered_max(h, make):
    rows = (
        jnp.zeros((IDS, h.shape[-1]), h.dtype)
        .at[make.ids.reshape(-1)]
        .max(h.reshape(-1, h.shape[-1]))
    )
    return h + rows[make.ids]


def segment_sum(h, make):
    flat = h.reshape(-1, h.shape[-1])
    sums = jax.ops.segment_sum(flat, make.ids.reshape(-1), num_segments=IDS)
    return h + jnp.tanh(make.dense(sums, h.shape[-1]))[make.ids]


def places_in_order(h, make):
    """Every channel sorts its places."""
    order = jnp.argsort(h, axis=1)
    return jnp.take_along_axis(h, order, axis=1)


def places_by_one_channel(h, make):
    order = jnp.argsort(make.dense(h, 1), axis=1)
    return h + jnp.take_along_axis(h, order, axis=1)


def sorted_places(h, make):
    return jnp.sort(h, axis=1)


def sorted_channels(h, make):
    return jnp.sort(h, axis=-1)


def argsorted_channels(h, make):
    order = jnp.argsort(h, axis=-1)
    return jnp.take_along_axis(h, order, axis=-1) if make.choice(True, False) else h + order / 8


def sorted_with(h, make):
    """The channels of one array in the order of another's."""
    g = make.dense(h, h.shape[-1])
    return lax.sort((g, h), dimension=make.choice(1, 2), num_keys=1)[1]


def argmax_of_channels(h, make):
    h = make.dense(h, 6)
    best = jnp.argmax(h, axis=-1)
    table = make.variable(6, make.width())
    if make.choice(True, False):
        return table[best] * h.sum(-1, keepdims=True)
    return h + jax.nn.one_hot(best, h.shape[-1], dtype=h.dtype)


def argmax_returned(h, make):
    make.outputs.append(jnp.argmax(make.dense(h, 5), axis=-1))
    return h


def argmax_of_places(h, make):
    best = jnp.argmax(jnp.abs(h), axis=1, keepdims=True)
    return h + jnp.take_along_axis(h, best, axis=1)


def argmax_routed(h, make):
    """A router over experts."""
    route = jnp.argmax(make.dense(h, 4), axis=-1)
    experts = make.variable(4, h.shape[-1], 6)
    return jnp.einsum("ntc,ntcd->ntd", h, experts[route])


def argmin_counted(h, make):
    least = jnp.argmin(h, axis=-1, keepdims=True)
    return h * (least == jnp.arange(h.shape[-1])) + h


def top_places(h, make):
    best, _ = lax.top_k(one_zero(jnp.swapaxes(h, 1, 2)), 3)
    return h + best.mean(-1)[:, None]


def top_channels(h, make):
    h = make.dense(h, 6)
    best, places = lax.top_k(one_zero(h), 2)
    if make.choice(True, False):
        return make.dense(best, make.width())
    return h + jax.nn.one_hot(places, 6, dtype=h.dtype).sum(-2)


def routed_twice(h, make):
    """The two best experts of four, weighted."""
    weight, places = lax.top_k(jax.nn.softmax(make.dense(h, 4)), 2)
    gates = (jax.nn.one_hot(places, 4, dtype=h.dtype) * weight[..., None]).sum(-2)
    experts = make.variable(4, h.shape[-1], 6)
    return jnp.einsum("nte,ntc,ecd->ntd", gates, h, experts)


def searched(h, make):
    """Bins of a sorted variable."""
    bins = jnp.cumsum(jnp.abs(make.variable(5))) - 1
    found = jnp.searchsorted(bins, h)
    return h + make.variable(6)[found]


def digitized(h, make):
    edges = np.linspace(-1, 1, 4)
    return h * (1 + jnp.digitize(h, edges))


def cumulated_places(h, make):
    return jnp.cumsum(h, axis=1) / 8


def cumulated_channels(h, make):
    return jnp.cumsum(h, axis=-1) / 8


def cumulated_reverse(h, make):
    return lax.cumsum(h, axis=make.choice(1, 2), reverse=True) / 8


def products(h, make):
    return jnp.cumprod(jnp.tanh(h), axis=make.choice(1, 1, 2))


def running_maximum(h, make):
    run = {"max": lax.cummax, "min": lax.cummin, "logsumexp": lax.cumlogsumexp}
    return run[make.choice(*run)](h, axis=make.choice(1, 1, 2))


def dynamic_place(h, make):
    start = make.ids[0, 0]
    piece = lax.dynamic_slice_in_dim(h, start, 3, axis=1)
    return lax.dynamic_update_slice_in_dim(h, jnp.tanh(piece), start + 1, axis=1)


def dynamic_channels(h, make):
    h = make.dense(h, 8)
    return lax.dynamic_slice_in_dim(h, make.ids[0, 0], 4, axis=2)


def dynamic_update_channels(h, make):
    h = make.dense(h, 8)
    return lax.dynamic_update_slice_in_dim(h, make.dense(h, 3), make.ids[0, 1], axis=2)


def dynamic_index(h, make):
    """One of several kernels, by an id."""
    kernels = make.variable(IDS, h.shape[-1], make.width())
    return h @ lax.dynamic_index_in_dim(kernels, make.ids[0, 0], keepdims=False)


def diagonal(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return h * jnp.diagonal(w) + h @ jnp.diag(make.vector(h))


def row_per_example(h, make):
    """h[n, ids[n]]."""
    rows = h[jnp.arange(h.shape[0]), make.ids[:, 0]]
    return h + rows[:, None]


def nonzero_mask(h, make):
    return jnp.where(h > 0, h, make.vector(h) * h)
