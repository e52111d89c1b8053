"""Mixtures of experts as batched contractions: experts and their hidden units are groups."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.attention import OUTPUT, TOKENS
from zoo.zoo import Network, linen


class Experts(nn.Module):
    """A router, and experts that see the tokens it sends them, weighted by its softmax.

    `top` is how many experts a token has; None for all of them, by weight. `capacity` sends the
    tokens of each expert to it in places of a buffer.
    """

    top: int | None = 1
    capacity: int | None = None
    experts: int = 4
    hidden: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Dense(8, name="stem")(x)
        gates = nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(x))
        up = self.param("up", nn.initializers.normal(), (self.experts, 8, self.hidden))
        down = self.param("down", nn.initializers.normal(), (self.experts, self.hidden, 8))
        if self.top is not None:
            values, chosen = jax.lax.top_k(gates, self.top)
            sent = jax.nn.one_hot(chosen, gates.shape[-1], dtype=x.dtype)
            gates = jnp.einsum("btk,btke->bte", values, sent)
        if self.capacity is None:
            y = nn.relu(jnp.einsum("btd,edh->bteh", x, up))
            y = jnp.einsum("bteh,ehd,bte->btd", y, down, gates)
        else:
            place = jnp.cumsum(gates > 0, axis=1) * (gates > 0) - 1
            buffer = jax.nn.one_hot(place, self.capacity, dtype=x.dtype)
            y = jnp.einsum("btd,btec->becd", x, buffer)
            y = nn.relu(jnp.einsum("becd,edh->bech", y, up))
            y = jnp.einsum("bech,ehd->becd", y, down)
            y = jnp.einsum("becd,btec,bte->btd", y, buffer, gates)
        return nn.Dense(3, name="head")(x + y)


BUFFERED = {"down[0]": 4, "up[2]": 6, "down[2]": 8}
GROUPS = {"router/kernel": 4, "up[2]": 6, "down": 8}
FROZEN = {"axis of an input": ["stem/kernel 0"], "axis of output": OUTPUT}
WHY = "reduce_max: a zero is not neutral in it"
INEXACT = {"router/kernel": WHY}
"""A zero in the softmax of the router is not neutral; experts are renumbered with it."""

NETWORKS: tuple[Network, ...] = (
    linen(
        "Experts by weight",
        Experts(top=None),
        TOKENS,
        groups={"router/kernel": 4, "up[2]": 6, "down": 8},
        frozen=FROZEN,
        inexact={"router/kernel": "reduce_max: a zero is not neutral in it"},
    ),
    linen("Experts top 1", Experts(top=1), TOKENS, groups=GROUPS, frozen=FROZEN, inexact=INEXACT),
    linen("Experts top 2", Experts(top=2), TOKENS, groups=GROUPS, frozen=FROZEN, inexact=INEXACT),
    linen(
        "Experts capacity",
        Experts(capacity=3),
        TOKENS,
        groups=BUFFERED,
        frozen=FROZEN,
        inexact={"down[0]": WHY},
    ),
)
