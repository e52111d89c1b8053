"""Layers of experts as modules of Linen and NNX, which hold how many experts there are."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from expert_networks import DISPATCHES

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
ROUTERS = ("before", "renormalized", "after", "sigmoid", "argmax")
_normal = nn.initializers.normal(1.0)


def route(logits: Any, how: str, k: int) -> tuple[Any, Any]:
    """Returns the weights and the numbers of the experts of every token, [tokens, k]."""
    if how == "argmax":
        chosen = jnp.argmax(logits, -1)[:, None]
        return jnp.take_along_axis(jax.nn.softmax(logits), chosen, -1), chosen
    if how == "after":
        values, chosen = lax.top_k(logits, k)
        return jax.nn.softmax(values), chosen
    values, chosen = lax.top_k(
        jax.nn.sigmoid(logits) if how == "sigmoid" else jax.nn.softmax(logits), k
    )
    return (values / values.sum(-1, keepdims=True) if how == "renormalized" else values), chosen


class Moe(nn.Module):
    """A stem, a layer of experts beside a shortcut, a head; the loss that balances experts."""

    num_experts: int
    hidden: int
    width: int = 4
    top_k: int = 2
    how: str = "after"
    dispatch: str = "sort"

    @nn.compact
    def __call__(self, x: Any) -> tuple[Any, Any]:
        x = nn.Dense(self.width, name="stem")(x)
        logits = nn.Dense(self.num_experts, name="router")(x)
        weights, chosen = route(logits, self.how, self.top_k)
        v = {
            "up": self.param("up", _normal, (self.num_experts, self.width, self.hidden)),
            "down": self.param("down", _normal, (self.num_experts, self.hidden, self.width)),
        }
        sent = jax.nn.one_hot(chosen, self.num_experts).sum(1)
        balance = (sent.mean(0) * jax.nn.softmax(logits).mean(0)).sum() * self.num_experts
        return nn.Dense(2, name="head")(
            x + DISPATCHES[self.dispatch](v, x, weights, chosen)
        ), balance


class Twin(nnx.Module):
    """The same in NNX."""

    def __init__(
        self, num_experts: int, hidden: int, top_k: int, how: str, dispatch: str, rngs: nnx.Rngs
    ):
        self.num_experts, self.top_k, self.how, self.dispatch = num_experts, top_k, how, dispatch
        self.stem = nnx.Linear(3, 4, rngs=rngs)
        self.router = nnx.Linear(4, num_experts, rngs=rngs)
        self.up = nnx.Param(_normal(rngs.params(), (num_experts, 4, hidden)))
        self.down = nnx.Param(_normal(rngs.params(), (num_experts, hidden, 4)))
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Any) -> tuple[Any, Any]:
        x = self.stem(x)
        logits = self.router(x)
        weights, chosen = route(logits, self.how, self.top_k)
        sent = jax.nn.one_hot(chosen, self.num_experts).sum(1)
        balance = (sent.mean(0) * jax.nn.softmax(logits).mean(0)).sum() * self.num_experts
        v = {"up": self.up[...], "down": self.down[...]}
        return self.head(x + DISPATCHES[self.dispatch](v, x, weights, chosen)), balance


class Switch(nn.Module):
    """A Switch layer: buffers of a capacity, or a mask of what is beyond it.

    The capacity is given, or computed from the number of experts.
    """

    num_experts: int
    capacity: int | None = None
    masks: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        e, d = self.num_experts, x.shape[-1]
        chances = jax.nn.softmax(nn.Dense(e, name="router")(x))
        up, down = self.param("up", _normal, (e, d, 5)), self.param("down", _normal, (e, 5, d))
        capacity = x.shape[0] // e if self.capacity is None else self.capacity
        sent = jax.nn.one_hot(jnp.argmax(chances, -1), e)
        place = jnp.cumsum(sent, 0) * sent
        weight = (chances * sent).sum(-1)
        if self.masks:
            sent = sent * (place <= capacity)
            h = jax.nn.relu(jnp.einsum("td,edh->teh", x, up))
            return x + jnp.einsum("te,t,teh,ehd->td", sent, weight, h, down)
        buffer = jax.nn.one_hot((place - 1).astype(int), capacity) * sent[..., None]
        h = jax.nn.relu(jnp.einsum("td,tec,edh->ech", x, buffer, up))
        return x + jnp.einsum("ech,ehd,tec,t->td", h, down, buffer, weight)
