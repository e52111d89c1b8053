"""MorphNet: a penalty on the sizes of channels, each times what a channel costs at present."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_finite
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.channels import located, norms, size
from jaxprune.groups.constraints import Groups, scope
from jaxprune.groups.members import Reduce
from jaxprune.inspecting import cost
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.sparsify.penalty import (
    Leaves,
    PenaltyState,
    check_strength,
    on_variables,
    value_at,
)

Members = Mapping[str, Sequence[Slot]]


def morphnet(
    graph: ChannelGraph,
    strength: float | optax.Schedule,
    *,
    price: cost.Cost = cost.macs,
    threshold: float = 0.01,
    reduce: Reduce = jnp.max,
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformationExtraArgs:
    """Adds the subgradient of `strength * sum over channels of price * size` to the gradients.

    The size of a channel is |gamma| of the BatchNorm that scales it; of a group without one it is
    the root mean square of the kernel entries that make the channel. Where layers share a group
    `reduce` takes one size of theirs. A channel is alive if its size is above `threshold`, and

      price of a group = d cost / d width at the numbers of channels that are alive

    which for a convolution is the paper's coefficient * alive inputs for its outputs, and
    coefficient * alive outputs for its inputs; what else has the group costs with it. No gradient
    goes through the prices. Its place in a chain is in front of everything else. The loop of the
    paper: train with it, cut (`jp.select.threshold(graph, jp.sparsify.channel_sizes(graph,
    variables), threshold=0.01)`), widen to the budget (`jp.plan.expand`), train anew, repeat.

    Args:
      graph: what `jaxprune.trace` returned.
      strength: of one unit of the cost, at least 0, or a schedule: about 1 / price(graph).
      price: a closed form of `jp.cost`, such as `jp.cost.params`.
      threshold: of the sizes, at least 0.
      reduce: from the sizes of the members of a group to one, called as
        `reduce(f32[n, members], axis=-1)`: the largest, or `jnp.linalg.norm`.
      only: names, patterns or kinds of the only groups that are penalized; all by default. The
        others count as whole.
      protect: names, patterns or kinds of groups that are not penalized.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      BudgetError: the cost is not a closed form.
      JaxpruneError: `strength` or `threshold` is negative or not finite.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a leaf of the graph, or it has another shape.

    Warns:
      UncountedWarning: the cost leaves out operations (`jp.cost.uncounted`).

    Source: Gordon et al., "MorphNet: Fast & Simple Resource-Constrained Structure Learning of Deep
    Networks", CVPR 2018; sizes without a BatchNorm and shared ones are those
    of the authors' code. There every layer has prices of its own, here a group has one.

    >>> import jax, jax.numpy as jnp, jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 4.0, 0.0]]), "b": jnp.ones((3, 2))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = jp.sparsify.morphnet(graph, 0.5)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> updates["a"].tolist()  # a channel is 1 + 2 MACs
    [[1.5, 1.5, 0.0]]
    """
    name = "morphnet"
    strength = check_strength(name, "strength", strength, "start from 1 / jp.cost.macs(graph).")
    threshold = check_finite(threshold, f"{name}: threshold", "threshold=0.01.")
    check_callable(reduce, f"{name}: reduce", "reduce=jnp.max, called with axis=-1.")
    if cost.terms_of(price) is None:
        raise BudgetError(
            f"{name}: price is not a closed form, so it has no derivative by the widths.\n"
            "Fix: jp.cost.macs, activation_bytes, params, weights, weight_bytes() or state_bytes()."
        )
    every = _members(graph)
    groups = {n: every[n] for n in scope(graph, list(every), only=only, protect=protect)}
    cost.warn_uncounted(graph, [price], stacklevel=2)
    wanted = [slot.path for slots in groups.values() for slot in slots]

    def change(state: PenaltyState, values: Leaves, old: Leaves) -> tuple[Leaves, PenaltyState]:
        moving = {path: wide(jnp.asarray(leaf)) for path, leaf in values.items()}
        alive = {
            group: jnp.sum(sizes > threshold, axis=-1).max().astype(jnp.float32)
            for group, sizes in _sizes(graph, groups, moving, reduce).items()
        }
        prices = jax.grad(lambda at: cost.expected(graph, price, at))(alive)

        def total(moving: Mapping[str, jax.Array]) -> jax.Array:
            sizes = _sizes(graph, groups, moving, reduce)
            each = (prices[n] / (graph.groups[n].layers or 1) * f.sum() for n, f in sizes.items())
            return sum(each, jnp.zeros(()))

        weight = value_at(strength, state.step)
        return {
            path: old[path] + (weight * slope).astype(old[path].dtype)
            for path, slope in jax.grad(total)(moving).items()
        }, state

    return on_variables(name, graph, wanted, change)


def channel_sizes(
    graph: ChannelGraph, params: Any, *, reduce: Reduce = jnp.max
) -> dict[str, jax.Array]:
    """Returns {group: f32[n]}: the sizes of channels as `morphnet` penalizes them.

    Args:
      graph: what `jaxprune.trace` returned.
      params: the parameters alone or the whole variables.
      reduce: as for `morphnet`.

    Raises:
      JaxpruneError: `reduce` is not a function.
      TreeError: the parameters lack a leaf of the graph, or it has another shape.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 4.0, 0.0]]), "b": jnp.ones((3, 2))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> sizes = jp.sparsify.channel_sizes(graph, params)
    >>> jp.select.threshold(graph, sizes, threshold=0.01)["a"].tolist()
    [True, True, False]
    """
    name = "channel_sizes"
    check_callable(reduce, f"{name}: reduce", "reduce=jnp.max, called with axis=-1.")
    groups = _members(graph)
    leaves, _ = paths.flatten(params)
    places = located(name, graph, [s.path for slots in groups.values() for s in slots], leaves)
    return _sizes(
        graph, groups, {p: wide(jnp.asarray(leaves[place])) for p, place in places.items()}, reduce
    )


def _members(graph: ChannelGraph) -> Members:
    """Returns {group: the scales of its BatchNorms, or the kernels that make it}.

    Raises:
      JaxpruneError: it is not a graph.
    """
    check_graph(graph)
    scales = {norm.scale for norm in batch_norms(graph).values()}
    sized = {}
    for name, group in graph.groups.items():
        gammas = [slot for slot in group.slots if slot.path in scales]
        made = gammas or [slot for slot in group.slots if slot.role == "out"]
        real = [s for s in made if jnp.issubdtype(graph.variables[s.path].dtype, jnp.inexact)]
        if real:
            sized[name] = real
    if not sized:
        raise JaxpruneError("no group has weights whose size could be taken.\nFix: print(graph).")
    return sized


def _sizes(
    graph: ChannelGraph, groups: Members, leaves: Mapping[str, jax.Array], reduce: Reduce
) -> dict[str, jax.Array]:
    """Returns {group: f[*layers, n]}: root mean squares, of one scale its modulus."""
    sizes = {}
    for name, slots in groups.items():
        each = [norms([slot], leaves) / size(graph, [slot]) ** 0.5 for slot in slots]
        sizes[name] = reduce(jnp.stack(each, axis=-1), axis=-1)
    return sizes
