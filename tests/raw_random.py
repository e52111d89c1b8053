"""Blocks of raw programs: random draws, of the shape of features, of channels, of places."""

import jax
import jax.numpy as jnp


def dropout(h, make):
    kept = jax.random.bernoulli(make.typed_key(), 0.7, h.shape)
    return jnp.where(kept, h / 0.7, 0)


def dropout_of_channels(h, make):
    kept = jax.random.bernoulli(make.typed_key(), 0.7, (h.shape[0], 1, h.shape[-1]))
    return jnp.where(kept, h / 0.7, 0)


def dropout_of_places(h, make):
    kept = jax.random.bernoulli(make.typed_key(), 0.7, h.shape[:2])
    return h * kept[..., None]


def dropout_old_key(h, make):
    kept = jax.random.bernoulli(make.key, 0.7, h.shape)
    return h * kept


def noise(h, make):
    draw = {"normal": jax.random.normal, "uniform": jax.random.uniform}
    return h + 0.1 * draw[make.choice(*draw)](make.typed_key(), h.shape, h.dtype)


def noise_scaled(h, make):
    """Noise on what is there: zero stays zero."""
    return h * (1 + 0.1 * jax.random.normal(make.typed_key(), h.shape, h.dtype))


def reparametrized(h, make):
    mean, spread = make.dense(h, 6), make.dense(h, 6)
    noise = jax.random.normal(make.typed_key(), mean.shape, h.dtype)
    return mean + jnp.exp(0.1 * spread) * noise


def noise_by_split_keys(h, make):
    """A key for every channel."""
    keys = jax.random.split(make.typed_key(), h.shape[-1])
    noise = jax.vmap(lambda key: jax.random.normal(key, h.shape[:2], h.dtype), out_axes=-1)(keys)
    return h * (1 + 0.1 * noise)


def noise_by_split_places(h, make):
    keys = jax.random.split(make.typed_key(), h.shape[1])
    noise = jax.vmap(lambda key: jax.random.normal(key, h.shape[-1:], h.dtype))(keys)
    return h * noise


def noise_by_folded_keys(h, make):
    key = make.typed_key()
    fold = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(h.shape[0]))
    noise = jax.vmap(lambda key: jax.random.uniform(key, h.shape[1:], h.dtype))(fold)
    return h * noise


def random_kernel(h, make):
    """Random features: a fixed projection that is drawn in the program."""
    w = jax.random.normal(make.typed_key(), (h.shape[-1], make.width()), h.dtype)
    return jnp.tanh(h @ w)


def truncated(h, make):
    low = jnp.tanh(make.vector(h)) - 2
    return h * jax.random.truncated_normal(make.typed_key(), low, 2.0, h.shape, h.dtype)


def uniform_between(h, make):
    high = jnp.abs(make.vector(h))
    return h * jax.random.uniform(make.typed_key(), h.shape, h.dtype, 0.0, high)


def bernoulli_of_features(h, make):
    kept = jax.random.bernoulli(make.typed_key(), jax.nn.sigmoid(h))
    return jnp.where(kept, h, 0)


def categorical(h, make):
    """A draw of channels."""
    drawn = jax.random.categorical(make.typed_key(), h)
    return h + jax.nn.one_hot(drawn, h.shape[-1], dtype=h.dtype)


def gumbel(h, make):
    scores = make.dense(h, 4)
    soft = jax.nn.softmax(scores + jax.random.gumbel(make.typed_key(), scores.shape, h.dtype))
    return make.dense(soft, make.width()) * h.sum(-1, keepdims=True)


def shuffled_places(h, make):
    order = jax.random.permutation(make.typed_key(), h.shape[1])
    return h[:, order]


def shuffled_channels(h, make):
    if make.choice(True, False):
        return jax.random.permutation(make.typed_key(), h, axis=2)
    return h[..., jax.random.permutation(make.typed_key(), h.shape[-1])]


def random_integers(h, make):
    steps = jax.random.randint(make.typed_key(), h.shape[-1:], 0, 4)
    return h * steps


def choice_of_places(h, make):
    places = jax.random.choice(make.typed_key(), h.shape[1], (3,), replace=False)
    return h + h[:, places].mean(1, keepdims=True)


def stochastic_depth(h, make):
    kept = jax.random.bernoulli(make.typed_key(), 0.5, (h.shape[0], 1, 1))
    return h + kept * jnp.tanh(make.dense(h, h.shape[-1]))


def dropout_in_scan(h, make):
    stack = make.variable(2, h.shape[-1], h.shape[-1])

    def layer(carry, w):
        h, key = carry
        key, own = jax.random.split(key)
        h = h + jnp.where(jax.random.bernoulli(own, 0.8, h.shape), jnp.tanh(h @ w), 0)
        return (h, key), None

    return jax.lax.scan(layer, (h, make.typed_key()), stack)[0][0]
