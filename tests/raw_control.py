"""Blocks of raw programs: loops, branches, calls, custom derivatives, vmaps with collectives."""

import jax
import jax.numpy as jnp
from jax import lax


def recurrent(h, make):
    """A scan over places with a carry."""
    n = make.width()
    into, back = make.kernel(h, n), make.variable(n, n)

    def step(carry, x):
        carry = jnp.tanh(x @ into + carry @ back)
        return carry, carry

    start = jnp.zeros((h.shape[0], into.shape[1]), h.dtype)
    xs, reverse = jnp.swapaxes(h, 0, 1), make.choice(True, False)
    return jnp.swapaxes(lax.scan(step, start, xs, reverse=reverse)[1], 0, 1)


def gated_recurrent(h, make):
    n = make.width()
    gates = [(make.kernel(h, n), make.variable(n, n)) for _ in range(2)]

    def step(carry, x):
        update, new = (x @ into + carry @ back for into, back in gates)
        update = jax.nn.sigmoid(update)
        carry = update * carry + (1 - update) * jnp.tanh(new)
        return carry, None

    start = jnp.zeros((h.shape[0], gates[0][0].shape[1]), h.dtype)
    last, _ = lax.scan(step, start, jnp.swapaxes(h, 0, 1))
    return make.dense(h, make.width()) + make.dense(last, 1)[:, None]


def stacked_layers(h, make):
    """A scan over stacked kernels."""
    n, hidden = h.shape[-1], make.width()
    stack = make.variable(3, n, hidden), make.variable(3, hidden, n), make.variable(3, hidden)

    def layer(h, own):
        up, down, bias = own
        return h + jax.nn.relu(h @ up + bias) @ down, None

    return lax.scan(layer, h, stack, reverse=make.choice(True, False))[0]


def stacked_layers_elsewhere(h, make):
    """The axis of layers is not the first, and the code slices it by a count."""
    up, down = make.variable(h.shape[-1], 2, 6), make.variable(6, 2, h.shape[-1])

    def layer(i, h):
        a = lax.dynamic_index_in_dim(up, i, 1, keepdims=False)
        b = lax.dynamic_index_in_dim(down, i, 1, keepdims=False)
        return h + jnp.tanh(h @ a) @ b

    return lax.fori_loop(0, 2, layer, h)


def nested_scans(h, make):
    w = make.variable(2, h.shape[-1], h.shape[-1], scale=0.3)

    def inner(carry, x):
        return 0.5 * carry + x, carry

    def outer(h, own):
        _, ys = lax.scan(inner, jnp.zeros_like(h[:, 0]), jnp.swapaxes(jnp.tanh(h @ own), 0, 1))
        return h + jnp.swapaxes(ys, 0, 1), None

    return lax.scan(outer, h, w)[0]


def scan_of_channels(h, make):
    """A scan that steps over the channels."""
    a = make.variable()
    carry, ys = lax.scan(
        lambda c, x: (a * c + x, c), jnp.zeros_like(h[..., 0]), jnp.moveaxis(h, -1, 0)
    )
    return jnp.moveaxis(ys, 0, -1) + carry[..., None]


def scan_swaps_carries(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])

    def step(carry, _):
        a, b = carry
        return (b, jnp.tanh(a @ w)), None

    a, b = lax.scan(step, (h, jnp.zeros_like(h)), length=3)[0]
    return a + b


def linear_recurrence(h, make):
    decay = jnp.broadcast_to(jax.nn.sigmoid(make.vector(h)), h.shape)

    def join(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    return lax.associative_scan(join, (decay, h), axis=1)[1]


def scan_with_index(h, make):
    """The step is counted, and only some results are stacked."""
    w = make.variable(h.shape[-1], h.shape[-1])

    def step(carry, i):
        h, total = carry
        h = jnp.where(i % 2 == 0, jnp.tanh(h @ w), h)
        return (h, total + h.sum(1)), h[:, 0]

    (h, total), ys = lax.scan(step, (h, jnp.zeros_like(h[:, 0])), jnp.arange(3))
    return h + jnp.tanh(total)[:, None] + ys.sum(0)[:, None]


def mapped_rows(h, make):
    w = make.kernel(h, make.width())
    return lax.map(lambda rows: jnp.tanh(rows @ w), h)


def branch_by_input(h, make):
    a, b = make.kernel(h, 6), make.kernel(h, 6)
    return lax.cond(make.ids[0, 0] > 1, lambda h: h @ a, lambda h: jnp.tanh(h @ b), h)


def branch_by_features(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return lax.cond(h.sum() > 0, lambda: h @ w, lambda: 0.5 * h)


def switch(h, make):
    bias = make.vector(h)
    branches = [lambda h: h + bias, lambda h: h * bias, jnp.tanh]
    return lax.switch(make.ids[0, 0], branches, h)


def for_loop(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return lax.fori_loop(0, make.choice(1, 3), lambda i, h: jnp.tanh(h @ w) + h / (i + 1), h)


def while_loop(h, make):
    """Until the norm is small; the derivative stops here."""
    w = lax.stop_gradient(make.variable(h.shape[-1], h.shape[-1]))

    def test(state):
        return (state[1] < 3) & (jnp.sum(state[0] ** 2) > 0.1)

    def body(state):
        return jnp.tanh(state[0] @ w), state[1] + 1

    return h + lax.while_loop(test, body, (lax.stop_gradient(h), 0))[0]


@jax.custom_jvp
def soft_clip(x):
    return jnp.clip(x, -1, 1)


@soft_clip.defjvp
def _soft_clip_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return soft_clip(x), dx * jnp.exp(-(x**2))


def custom_jvp_elementwise(h, make):
    return soft_clip(h)


def custom_jvp_product(h, make):
    @jax.custom_jvp
    def product(h, w):
        return h @ w

    @product.defjvp
    def _jvp(primals, tangents):
        (h, w), (dh, dw) = primals, tangents
        return h @ w, dh @ w + 0.5 * (h @ dw)

    return product(h, make.kernel(h, make.width()))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(4 * x) / 4


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


def custom_vjp_rounding(h, make):
    return straight_through(h)


def custom_vjp_product(h, make):
    """The gradient of the kernel is clipped."""

    @jax.custom_vjp
    def product(h, w):
        return h @ w

    def backward(saved, g):
        h, w = saved
        return g @ w.T, jnp.clip(jnp.einsum("ntc,ntd->cd", h, g), -0.5, 0.5)

    product.defvjp(lambda h, w: (h @ w, (h, w)), backward)
    return product(h, make.kernel(h, make.width()))


def custom_vjp_normed(h, make):
    """The gradient is normed over the channels."""

    @jax.custom_vjp
    def normed(h):
        return h

    normed.defvjp(lambda h: (h, None), lambda _, g: (g / (1 + jnp.sum(g * g, -1, keepdims=True)),))
    return normed(h)


def remat(h, make):
    up, down = make.kernel(h, 8), make.variable(8, make.width())
    block = jax.checkpoint(lambda h: jnp.tanh(h @ up) @ down)
    if make.choice(True, False):
        block = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
    return block(h)


def nested_calls(h, make):
    """A scan of a remat of a jit of a custom derivative."""
    stack = make.variable(2, h.shape[-1], h.shape[-1])
    layer = jax.checkpoint(jax.jit(lambda h, w: h + soft_clip(h @ w)))
    return lax.scan(lambda h, w: (layer(h, w), None), h, stack)[0]


def nested_jit(h, make):
    w = make.kernel(h, make.width())
    inner = jax.jit(lambda h, w: jax.nn.relu(h @ w))
    return jax.jit(lambda h: inner(h, w) + inner(-h, w))(h)


def vmapped_kernels(h, make):
    """A kernel for every example."""
    w = make.variable(h.shape[0], h.shape[-1], make.width())
    return jax.vmap(jnp.matmul)(h, w)


def vmapped_channels(h, make):
    """One small function for every channel, with a vector of its own."""
    a, b = make.vector(h), make.vector(h)
    return jax.vmap(lambda x, a, b: jnp.tanh(a * x) + b, in_axes=(-1, 0, 0), out_axes=-1)(h, a, b)


def vmapped_experts(h, make):
    up, down = make.variable(3, h.shape[-1], 6), make.variable(3, 6, make.width())
    each = jax.vmap(lambda up, down: jax.nn.relu(h @ up) @ down)
    return each(up, down).mean(0)


def synced_batch_norm(h, make):
    """Statistics of all examples, by a mean over a mapped axis."""
    scale = make.vector(h)

    def norm(x):
        mean = lax.pmean(x.mean(0), "batch")
        var = lax.pmean((x**2).mean(0), "batch") - mean**2
        return (x - mean) * lax.rsqrt(var + 1e-3) * scale

    return jax.vmap(norm, axis_name="batch")(h)


def collective_over_examples(h, make):
    """psum, pmax, pmin, all_gather and the index of a mapped axis of examples."""
    kind = make.choice("psum", "pmax", "pmin", "all_gather", "axis_index", "ppermute")
    n = h.shape[0]
    ways = {
        "psum": lambda x: x + lax.psum(x, "i"),
        "pmax": lambda x: x + lax.pmax(lax.stop_gradient(x), "i"),
        "pmin": lambda x: x + lax.pmin(lax.stop_gradient(x), "i"),
        "all_gather": lambda x: x + lax.all_gather(x, "i").mean(0),
        "axis_index": lambda x: x * (1 + lax.axis_index("i")),
        "ppermute": lambda x: lax.ppermute(x, "i", [(i, (i + 1) % n) for i in range(n)]),
    }
    return jax.vmap(ways[kind], axis_name="i")(h)


def collective_over_channels(h, make):
    """The same over a mapped axis of channels."""
    kind = make.choice("psum", "pmean", "pmax", "all_gather", "axis_index")
    w = make.vector(h)
    ways = {
        "psum": lambda x, w: x - lax.psum(w * x, "c"),
        "pmean": lambda x, w: x - lax.pmean(w * x, "c"),
        "pmax": lambda x, w: x - lax.pmax(lax.stop_gradient(x * w), "c"),
        "all_gather": lambda x, w: x + w * lax.all_gather(x, "c").sum(0),
        "axis_index": lambda x, w: x * w * lax.axis_index("c"),
    }
    return jax.vmap(ways[kind], in_axes=(2, 0), out_axes=2, axis_name="c")(h, w)


def collective_over_hidden(h, make):
    """A product that is split over a mapped axis and summed by psum."""
    up, down = make.kernel(h, 8), make.variable(8, make.width())

    def part(up, down):
        return lax.psum(jnp.tanh(h @ up)[..., None] * down, "hidden")

    return jax.vmap(part, in_axes=(1, 0), out_axes=None, axis_name="hidden")(up, down)


def nested_vmaps(h, make):
    w = make.vector(h)

    def one(x, w):
        return x * w + lax.psum(x, ("n", "t")) / 24

    inner = jax.vmap(one, in_axes=(0, None), axis_name="t")
    return jax.vmap(inner, in_axes=(0, None), axis_name="n")(h, w)
