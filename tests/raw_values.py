"""Blocks of raw programs: roots, constants that follow sizes, dtypes, statistics, reductions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name


def root_of_square(h, make):
    ways = {
        "sqrt": lambda h: jnp.sqrt(h * h),
        "half": lambda h: (h * h) ** 0.5,
        "power": lambda h: jnp.power(jnp.abs(h), 0.7),
        "hypot": lambda h: jnp.hypot(h, 0 * h),
    }
    return ways[make.choice(*ways)](h)


def cube_root(h, make):
    return jnp.cbrt(h)


def root_of_relu(h, make):
    return jnp.sqrt(jax.nn.relu(h) + make.choice(1e-3, 1e-2)) - make.choice(0.0, 0.1)


def angle(h, make):
    g = make.dense(h, h.shape[-1])
    return jnp.arctan2(h, g) / 3


def norm_of_channels(h, make):
    ways = {
        "linalg": lambda h: jnp.linalg.norm(h, axis=-1, keepdims=True),
        "sqrt": lambda h: jnp.sqrt(jnp.sum(h**2, -1, keepdims=True)),
        "safe": lambda h: jnp.sqrt(jnp.sum(h**2, -1, keepdims=True) + 1e-6),
        "one": lambda h: jnp.sum(jnp.abs(h), -1, keepdims=True),
    }
    return h / (0.1 + ways[make.choice(*ways)](h))


def norm_of_places(h, make):
    """A norm of each channel: zero where it is pruned."""
    return h / (0.1 + jnp.linalg.norm(h, axis=1, keepdims=True))


def weight_norm(h, make):
    w, gain = make.kernel(h, make.width()), make.variable(1)
    return h @ (w / jnp.linalg.norm(w, axis=0, keepdims=True)) * gain


def weight_standardized(h, make):
    w = make.kernel(h, make.width())
    w = (w - w.mean(0)) / (w.std(0) + 1e-3)
    return h @ w


def reciprocal_root(h, make):
    return h * lax.rsqrt(h**2 + make.choice(1e-3, 1.0))


def log_and_exp(h, make):
    ways = {
        "log1p": lambda h: jnp.log1p(jnp.abs(h)),
        "expm1": lambda h: jnp.expm1(-jnp.abs(h)),
        "log": lambda h: jnp.log(1 + h**2),
        "logaddexp": lambda h: jnp.logaddexp(h, 0.0),
        "xlogy": lambda h: jax.scipy.special.xlogy(jnp.abs(h), 1 + h * h),
        "entr": lambda h: jax.scipy.special.entr(0.5 + 0.3 * jnp.tanh(h)),
        "sinc": jnp.sinc,
    }
    return ways[make.choice(*ways)](h)


def divided_by_size(h, make):
    ways = {
        "size": lambda h: h / h.shape[-1],
        "root": lambda h: h / np.sqrt(h.shape[-1]),
        "times": lambda h: h * h.shape[-1] / 8,
        "square": lambda h: h.sum(-1, keepdims=True) / h.shape[-1] ** 2 + h,
        "less one": lambda h: h - h.sum(-1, keepdims=True) / (h.shape[-1] - 1),
        "added": lambda h: h * lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + h.shape[-1]),
        "after": lambda h: (
            h / (0.1 + jnp.sqrt(jnp.sum(h * h, -1, keepdims=True)) / np.sqrt(h.shape[-1]))
        ),
        "matmul": lambda h: h - h @ (jnp.ones((h.shape[-1], 1), h.dtype) / h.shape[-1]),
    }
    return ways[make.choice(*ways)](h)


def scaled_by_fan_in(h, make):
    w = make.kernel(h, make.width())
    return h @ (w * np.sqrt(2 / w.shape[0]))


def scaled_product(h, make):
    return make.dense(h, make.width()) / np.sqrt(h.shape[-1])


def mean_of_channels(h, make):
    between = {
        "nothing": lambda x: x,
        "name": lambda x: checkpoint_name(x, "sum"),
        "barrier": lax.optimization_barrier,
        "precision": lambda x: lax.reduce_precision(x, 11, 52),
        "maximum": lambda x: jnp.maximum(x, -1.0),
        "where": lambda x: jnp.where(x > -9, x, 0.0),
    }[make.choice("nothing", "name", "barrier", "precision", "maximum", "where")]
    return h - between(h.sum(-1, keepdims=True)) / h.shape[-1]


def variance_of_channels(h, make):
    return h / (1 + jnp.var(h, axis=-1, keepdims=True, ddof=make.choice(0, 1)))


def layer_norm(h, make):
    mean, var = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    return (h - mean) * lax.rsqrt(var + 1e-3) * make.vector(h) + make.vector(h)


def rms_norm(h, make):
    return h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-3) * (1 + make.vector(h))


def group_norm(h, make):
    h = make.even(h)
    g = h.reshape(*h.shape[:2], 2, -1)
    mean, var = g.mean((1, 3), keepdims=True), g.var((1, 3), keepdims=True)
    return ((g - mean) * lax.rsqrt(var + 1e-3)).reshape(h.shape) * make.vector(h)


def batch_norm(h, make):
    """With running statistics, which are returned."""
    scale, bias = make.vector(h), make.vector(h)
    mean, var = h.mean((0, 1)), h.var((0, 1))
    for value in (mean, var):
        running = make.given(lambda random, n=h.shape[-1]: random.random(n).astype(h.dtype))
        make.update(0.9 * running + 0.1 * value)
    return (h - mean) * lax.rsqrt(var + 1e-3) * scale + bias


def instance_norm(h, make):
    return (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-3)


def reduced(h, make):
    """A reduction of the channels, beside them."""
    ways = {
        "max": lambda h: h.max(-1, keepdims=True),
        "min": lambda h: h.min(-1, keepdims=True),
        "prod": lambda h: jnp.prod(1 + 0.1 * h, -1, keepdims=True),
        "logsumexp": lambda h: jax.nn.logsumexp(h, -1, keepdims=True),
        "any": lambda h: jnp.any(h > 0.5, -1, keepdims=True),
        "sum": lambda h: jnp.sum(h, -1, keepdims=True) / 4,
        "energy": lambda h: jnp.sum(h * h, -1, keepdims=True) / 4,
        "median": lambda h: jnp.median(h, -1, keepdims=True),
        "count": lambda h: jnp.sum(h > 0, -1, keepdims=True) / 4,
    }
    return h + ways[make.choice(*ways)](h)


def reduced_places(h, make):
    reduce = make.choice("max", "min", "mean", "prod", "ptp")
    ways = {"max": jnp.max, "min": jnp.min, "mean": jnp.mean, "prod": jnp.prod, "ptp": jnp.ptp}
    return h + 0.1 * ways[reduce](h, axis=1, keepdims=True)


def softmax_of_channels(h, make):
    return jax.nn.softmax(h) + jax.nn.log_softmax(make.dense(h, h.shape[-1])) / 8


def softmax_of_places(h, make):
    return h * jax.nn.softmax(h, axis=1)


def masked_softmax(h, make):
    """Causal attention with finite and with infinite masks."""
    q, k = make.dense(h, 4), make.dense(h, 4)
    scores = jnp.einsum("ntc,nsc->nts", q, k)
    low = make.choice(-1e9, -np.inf)
    scores = jnp.where(jnp.tril(jnp.ones((8, 8), bool)), scores, low)
    return jax.nn.softmax(scores) @ h


def gated(h, make):
    return h * jax.nn.sigmoid(make.dense(h, h.shape[-1]))


def squeeze_excite(h, make):
    gate = jax.nn.relu(make.dense(h.mean(1, keepdims=True), make.width()))
    return h * jax.nn.sigmoid(make.dense(gate, h.shape[-1]))


def shifted(h, make):
    return make.activation(h + make.vector(h)) * make.vector(h)


def clipped(h, make):
    return jnp.clip(h, make.choice(-1.0, 0.0, 0.1), make.choice(0.5, 2.0))


def rounded(h, make):
    ways = {
        "round": jnp.round,
        "floor": jnp.floor,
        "ceil": jnp.ceil,
        "sign": jnp.sign,
        "trunc": jnp.trunc,
    }
    return h + 0.1 * ways[make.choice(*ways)](2 * h)


def remainders(h, make):
    ways = {
        "mod": lambda h: jnp.mod(h, 0.7),
        "rem": lambda h: lax.rem(h, jnp.asarray(0.7, h.dtype)),
        "divide": lambda h: jnp.floor_divide(h, 0.3) / 8,
    }
    return ways[make.choice(*ways)](h)


def integer_features(h, make):
    """Rounded, shifted, and masked as integers."""
    i = jnp.round(4 * h).astype(jnp.int32)
    ways = {
        "and": lambda i: i & 3,
        "xor": lambda i: i ^ 5,
        "shift": lambda i: (i << 1) + (i >> 2),
        "not": lambda i: ~i,
        "abs": lambda i: jnp.abs(i) % 3,
    }
    return h + ways[make.choice(*ways)](i).astype(h.dtype) / 8


def compared(h, make):
    g = make.dense(h, h.shape[-1])
    ways = {
        "greater": lambda: jnp.where(h > g, h, g),
        "maximum": lambda: jnp.maximum(h, g),
        "minimum": lambda: jnp.minimum(h, g),
        "equal": lambda: h + (h == g),
        "both": lambda: h * ((h > 0) & (g > 0)),
        "either": lambda: h * ((h > 0) | (g >= 0)),
    }
    return ways[make.choice(*ways)]()


def complex_kernel(h, make):
    shape = (h.shape[-1], make.width())
    double = np.complex128 if h.dtype == np.float64 else np.complex64
    w = make.given(
        lambda random: ((random.normal(size=shape) + 1j * random.normal(size=shape)) / 3).astype(
            double
        )
    )
    z = h @ w
    ways = {
        "real": lambda z: z.real,
        "imag": lambda z: z.imag,
        "both": lambda z: jnp.concatenate([z.real, z.imag], -1),
        "energy": lambda z: (z * z.conj()).real,
        "soft": lambda z: jnp.abs(z + (1 + 1j)),
    }
    return ways[make.choice(*ways)](z)


def complex_features(h, make):
    g = make.dense(h, h.shape[-1])
    z = lax.complex(h, g)
    make.outputs.append(jnp.einsum("ntc->nt", z * z))
    return make.activation((z * jnp.exp(1j * 0.3).astype(z.dtype)).real)


def complex_diagonal(h, make):
    """A diagonal recurrence with complex poles."""
    phase = make.vector(h)
    z = lax.complex(0.9 * jnp.cos(phase), 0.9 * jnp.sin(phase))
    powers = z[None] ** jnp.arange(8)[:, None]
    return h * powers.real


def spectrum(h, make):
    return jnp.fft.irfft(jnp.fft.rfft(h, axis=1) * 0.5, n=8, axis=make.choice(1, 1))


def bfloat16_kernel(h, make):
    w = make.variable(h.shape[-1], make.width(), dtype=jnp.bfloat16)
    return h @ w.astype(h.dtype)


def bfloat16_scale(h, make):
    w = make.variable(h.shape[-1], dtype=jnp.bfloat16)
    return h * w + make.variable(h.shape[-1], dtype=jnp.float16)


def bfloat16_steps(h, make):
    """Rounded to bfloat16 and back."""
    return h.astype(jnp.bfloat16).astype(h.dtype)


def weak_scalar(h, make):
    """A parameter whose type gives way."""
    return h * jnp.asarray(2.66) * make.variable()


def mixed_precision(h, make):
    out = jnp.einsum("ntc,cd->ntd", h, make.kernel(h, make.width()), preferred_element_type=h.dtype)
    return make.activation(out)


def stopped(h, make):
    return h + lax.stop_gradient(make.dense(h, h.shape[-1]))


def constant_vector(h, make):
    """A constant a channel."""
    constant = np.linspace(0.5, 1.5, h.shape[-1]).astype(h.dtype)
    return h * constant if make.choice(True, False) else h + constant


def counted_channels(h, make):
    steps = jnp.arange(h.shape[-1], dtype=h.dtype)
    return h * (1 + steps / 8) if make.choice(True, False) else h * jnp.cos(steps)


def positions(h, make):
    places = jnp.arange(h.shape[1], dtype=h.dtype)[:, None]
    rate = 10.0 ** -jnp.linspace(0, 1, 4, dtype=h.dtype)
    waves = jnp.concatenate([jnp.sin(places * rate), jnp.cos(places * rate)], -1)
    return make.dense(h, 8) + waves


def rotated(h, make):
    """Rotary embedding of channels in two halves, or in pairs."""
    h = make.dense(h, 8)
    angle = jnp.arange(8, dtype=h.dtype)[:, None] / jnp.arange(1, 5, dtype=h.dtype)
    if make.choice(True, False):
        a, b = jnp.split(h, 2, -1)
        both = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)]
        return jnp.concatenate(both, -1)
    a, b = h[..., ::2], h[..., 1::2]
    both = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)]
    return jnp.stack(both, -1).reshape(h.shape)


def another_output(h, make):
    """Features are returned, summed or as they are."""
    kind = make.choice("whole", "sum", "energy", "first")
    ways = {
        "whole": lambda h: h,
        "sum": lambda h: h.sum(-1),
        "energy": lambda h: (h * h).sum(-1),
        "first": lambda h: h[:, 0],
    }
    make.outputs.append(ways[kind](h))
    return make.dense(h, make.width())


def running_average(h, make):
    """A variable that is returned, changed, and not read otherwise."""
    make.given(lambda random, n=h.shape[-1]: random.random(n).astype(h.dtype))
    make.update(h.mean((0, 1)))
    return h


def scaled_late(h, make):
    """A scale per channel of a kernel, behind the product."""
    h = make.dense(h, make.width())
    return (
        h * jnp.exp(make.vector(h)) if make.choice(True, False) else h / (1 + make.vector(h) ** 2)
    )
