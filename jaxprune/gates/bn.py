"""The Gate Decorator's form of BatchNorm: phi * (x_hat + b) in place of gamma * x_hat + beta.

Source: You et al., "Gate Decorator: Global Filter Pruning Method for Accelerating Deep
Convolutional Neural Networks", NeurIPS 2019; the limit of b is that of the released code.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_arrays
from jaxprune.arguments.numbers import check_positive
from jaxprune.arguments.paths import flatten
from jaxprune.errors import GateError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.batch_norms import norms_in


class Decorated(NamedTuple):
    """Variables with the gates phi as scales, and what the new form cannot hold.

    variables: a tree as before, where the scale of every BatchNorm is phi = gamma and its bias is
      b; nothing else has changed.
    lost: {module: f32[n]}, the part of beta that b cannot give because it was clipped: beta -
      gamma * b there, zero elsewhere.
    closed: {module: bool[n]}, the channels whose gamma is zero: a shut gate, whose Taylor score is
      zero. What beta they have is in `lost`.
    """

    variables: Any
    lost: dict[str, Any]
    closed: dict[str, Any]

    def __str__(self) -> str:
        lines = [
            f"{name}: {_count(lost)} of {lost.size} channels lose bias to the clip "
            f"(at most {np.abs(lost).max():.3g}), {_count(self.closed[name])} have scale 0"
            for name, lost in self.lost.items()
            if _count(lost) or _count(self.closed[name])
        ]
        return "\n".join(lines) or f"{len(self.lost)} BatchNorms, none clipped, no scale 0"


def decorate(
    variables: Any, *, limit: float = 10.0, graph: ChannelGraph | None = None
) -> Decorated:
    """Returns the variables in the Gate Decorator's form, one gate phi per BatchNorm channel.

    `b = clip(beta / gamma, -limit, limit)`, and 0 where both are 0. The tree keeps its structure,
    so that `jp.mask`, `jp.slice`, the scores and optax masks apply to it as they did; the network
    runs on `melt` of it, inside the loss: `fn(melt(decorated), x)`. Then dL/dphi = Σ dL/dy *
    (x_hat + b): the inner gamma is one and does not train. A BatchNorm without bias is in that
    form already (b = 0); one without scale has no gate and stays as it is.

    Args:
      variables: the whole variables, running statistics included (they mark a BatchNorm).
      limit: the largest |b|, positive and finite.
      graph: what `jaxprune.trace` returned: finds BatchNorm under names that are not Flax's too.

    Raises:
      GateError: `limit` is not positive and finite.
      TreeError: no BatchNorm of `variables` has a scale.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> decorated = jp.gates.decorate(v)
      >>> melted = jp.gates.melt(decorated.variables)
      >>> melted["params"]["norm"]["scale"].tolist()
      [2.0, -1.0, 0.5]
    """
    limit = check_positive(limit, "limit", "limit=10.0.", GateError)
    check_arrays(variables, "variables")
    leaves, treedef = flatten(variables)
    lost, closed = {}, {}
    for module, (scale, bias) in _gates(variables, graph).items():
        phi = leaves[scale]
        xp = np if isinstance(phi, np.ndarray) else jnp
        closed[module], lost[module] = phi == 0, xp.zeros_like(phi)
        if bias is not None:
            beta = leaves[bias]
            far = xp.abs(beta) > limit * xp.abs(phi)
            edge = limit * _unit(beta, xp) * _unit(phi, xp).conj()
            b = xp.where(far, edge, beta / xp.where(phi == 0, 1, phi)).astype(beta.dtype)
            leaves[bias] = b
            lost[module] = xp.where(far, beta - phi * b, 0).astype(beta.dtype)
    return Decorated(jax.tree.unflatten(treedef, list(leaves.values())), lost, closed)


def melt(variables: Any, *, graph: ChannelGraph | None = None) -> Any:
    """Returns decorated variables in the network's own form: gamma = phi, beta = phi * b.

    A pure function that can be differentiated and jitted. `melt(decorate(v).variables)` is `v`
    up to the rounding of one division and one product (a relative 2**-23 of beta in float32), and
    to the bit in everything but the biases; where the clip bites, beta is less by `lost`.

    Args:
      variables: the decorated variables, running statistics included.
      graph: as for `decorate`.

    Raises:
      TreeError: no BatchNorm of `variables` has a scale.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> gates = jp.gates.decorate(v).variables
      >>> jp.gates.melt(gates)["params"]["norm"]["bias"].tolist()
      [0.0, 0.0, 0.0]
    """
    check_arrays(variables, "variables")
    leaves, treedef = flatten(variables)
    for scale, bias in _gates(variables, graph).values():
        if bias is not None:
            leaves[bias] = leaves[scale] * leaves[bias]
    return jax.tree.unflatten(treedef, list(leaves.values()))


def _gates(variables: Any, graph: ChannelGraph | None) -> dict[str, tuple[str, str | None]]:
    """The paths of scale and bias of every BatchNorm that has a scale."""
    norms = norms_in(variables, graph).items()
    found = {name: (norm.scale, norm.bias) for name, norm in norms if norm.scale is not None}
    if not found:
        raise TreeError(
            "no BatchNorm with a scale among the variables, so there is nothing to decorate.\n"
            "Fix: pass the whole variables, {'params': ..., 'batch_stats': ...}, and graph= where "
            "its names are not Flax's; for a network without BatchNorm use gates at the "
            "contractions, jp.gated(fn, graph)."
        )
    return found


def _unit(values: Any, xp: Any) -> Any:
    """The sign of every number, complex ones too; 1 at 0."""
    size = xp.abs(values)
    return xp.where(size == 0, 1, values / xp.where(size == 0, 1, size))


def _count(values: Any) -> int:
    return int(np.count_nonzero(values))
