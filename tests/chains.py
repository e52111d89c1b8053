"""Chains of dense layers: the smallest graphs with closed-form costs."""

from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

INPUTS, OUTPUTS = 2, 3


def apply(variables: Any, x: jax.Array) -> jax.Array:
    """Returns the result of dense layers with bias and relu, [n, OUTPUTS]."""
    params = variables["params"]
    *hidden, last = (params[f"layer_{i}"] for i in range(len(params)))
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
    return x @ last["kernel"] + last["bias"][None]


@cache
def chain(*widths: int) -> tuple[jp.ChannelGraph, Any]:
    """Returns the graph of one example, and the variables.

    There are INPUTS inputs, hidden layers of `widths`, and OUTPUTS outputs; the groups are
    `layer_0/kernel`, `layer_1/kernel`, ... in order.
    """
    random = np.random.default_rng(0)
    layers = {
        f"layer_{i}": {
            "kernel": random.normal(size=sizes).astype(np.float32),
            "bias": random.normal(size=sizes[1]).astype(np.float32),
        }
        for i, sizes in enumerate(pairwise((INPUTS, *widths, OUTPUTS)))
    }
    variables = {"params": layers}
    image = jax.ShapeDtypeStruct((1, INPUTS), jnp.float32)
    return jp.trace(apply, variables, image), variables


def kept(keep):
    """Returns the kept channels of each group, as lists."""
    return {name: np.flatnonzero(mask).tolist() for name, mask in keep.items()}


def widths(keep):
    """Returns the kept counts, in group order."""
    return [int(mask.sum()) for mask in keep.values()]
