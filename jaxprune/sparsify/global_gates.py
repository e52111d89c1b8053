"""GDP: gates of all channels by one order of saliency, in which closed channels may come back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.dtypes import wide_dtype
from jaxprune.arguments.numbers import check_count, check_share
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Slot
from jaxprune.groups.channels import Members, Section, located, members, spread
from jaxprune.groups.constraints import Groups
from jaxprune.keep.check import host_masks
from jaxprune.sparsify.penalty import check_update


class GlobalGates(NamedTuple):
    """State of `gdp`."""

    step: jax.typing.ArrayLike  # int32[], updates so far
    keep: dict[str, jax.Array]  # {group: bool[n]}, True where a channel is open


def gdp(
    graph: ChannelGraph,
    *,
    prune_ratio: float | optax.Schedule,
    period: int = 1,
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformation:
    """Chooses which channels are open, every `period` steps, by the saliency of all together.

      saliency of channel c = |sum over the kernel entries that make it of w * dL/dw|
      open: the share 1 - prune_ratio of all channels with the highest saliency

    The gradients go through unchanged. The loss is that of `gated_filters`, where the filters of
    closed channels are zero and keep their gradient: they go on to train, and a channel that was
    closed by mistake opens again. Every group keeps its best channel open. First in a chain:

      tx = optax.chain(jp.sparsify.gdp(graph, prune_ratio=0.5), optax.sgd(0.1))
      keep = optax.tree.get(tx.init(params), "keep")
      loss = lambda params, keep: task(jp.sparsify.gated_filters(graph, params, keep))

    In the end `jp.gates.kept(graph, keep)` is what is cut to, also of stacked layers. What a
    BatchNorm or a bias makes of a filter of zeros stays until the cut, and
    `jp.recover.absorb_constants` keeps it.

    Args:
      graph: what `jaxprune.trace` returned.
      prune_ratio: share of all channels that is closed, in [0, 1], or a schedule of it.
      period: steps between two choices, at least 1; before the first all are open.
      only: names, patterns or kinds of the only groups whose channels close; all by default.
      protect: names, patterns or kinds of groups that stay open.

    Returns:
      A transformation whose `update` needs `params`, and whose state is `GlobalGates`.

    Raises:
      JaxpruneError: `prune_ratio` is not a share, or `period` not a count.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    Source: Lin et al., "Accelerating Convolutional Networks via Global & Dynamic Filter Pruning",
    IJCAI 2018, section 3.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 1.0, 2.0]]), "b": jnp.ones((3, 2))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = jp.sparsify.gdp(graph, prune_ratio=1 / 3)
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> state.keep["a"].tolist()
    [True, False, True]
    >>> jp.sparsify.gated_filters(graph, params, state.keep)["a"].tolist()
    [[3.0, 0.0, 2.0]]
    """
    name = "gdp"
    if not callable(prune_ratio) or isinstance(prune_ratio, type):
        prune_ratio = check_share(prune_ratio, f"{name}: prune_ratio", "prune_ratio=0.5.")
    period = check_count(period, f"{name}: period", "period=10.")
    groups = members(graph, ("out",), only=only, protect=protect)
    kernels = [slot.path for slots in groups.values() for slot in slots]

    def init(params: optax.Params) -> GlobalGates:
        located(name, graph, kernels, paths.flatten(params)[0])
        every = {group: jnp.ones(graph.groups[group].shape, bool) for group in groups}
        return GlobalGates(step=jnp.zeros([], jnp.int32), keep=every)

    def update(
        updates: optax.Updates, state: GlobalGates, params: optax.Params | None = None
    ) -> tuple[optax.Updates, GlobalGates]:
        check_update(name, updates, state, params, GlobalGates)
        leaves, slopes = paths.flatten(params)[0], paths.flatten(updates)[0]
        places = located(name, graph, kernels, leaves)
        ratio = prune_ratio(state.step) if callable(prune_ratio) else prune_ratio

        def chosen() -> dict[str, jax.Array]:
            products = {path: _product(leaves[own], slopes[own]) for path, own in places.items()}
            return _open(graph, {n: _saliency(s, products) for n, s in groups.items()}, ratio)

        due = jnp.asarray(state.step) % period == 0
        every = jax.lax.cond(due, chosen, lambda: state.keep)
        return updates, GlobalGates(step=optax.safe_increment(state.step), keep=every)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def gated_filters(
    graph: ChannelGraph, params: optax.Params, keep: Mapping[str, Any]
) -> optax.Params:
    """Returns the parameters where the filters of closed channels are zero, with their gradient.

    The kernel entries that make a channel count as zero in the result, and the derivative by them
    is that of the identity. What reads the channel, biases and BatchNorms stay as they are.

    Args:
      graph: what `jaxprune.trace` returned.
      params: the parameters alone or the whole variables; they may be traced.
      keep: {group: bool[n]}, or bool[layers, n], such as the state of `gdp` holds; it may be
        traced, and absent groups are open.

    Raises:
      KeepError: the keep does not fit, or no kernel makes the channels of a group in it.
      TreeError: the parameters lack a kernel of the graph, or it has another shape.

    >>> import jax, jax.numpy as jnp, jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.ones((2, 1))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> gated = lambda p: jp.sparsify.gated_filters(graph, p, {"a": jnp.array([True, False])})
    >>> gated(params)["a"].tolist(), jax.grad(lambda p: gated(p)["a"].sum())(params)["a"].tolist()
    ([[3.0, 0.0]], [[1.0, 1.0]])
    """
    groups = members(graph, ("out",))
    given = _checked(graph, keep, groups)
    leaves, treedef = paths.flatten(params)
    slots = [(name, slot) for name in given for slot in groups[name]]
    places = located("gated_filters", graph, [slot.path for _, slot in slots], leaves)
    gated = dict(leaves)
    for name, slot in slots:
        own = places[slot.path]
        kernel = jnp.asarray(gated[own])
        factors = spread(given[name].astype(wide_dtype(kernel.real.dtype)), slot, _real(kernel))
        gated[own] = jnp.where(factors != 0, kernel, jnp.zeros((), kernel.dtype))
    for own in dict.fromkeys(places.values()):
        kernel = jnp.asarray(leaves[own])
        gated[own] = kernel + jax.lax.stop_gradient(gated[own] - kernel)
    return jax.tree.unflatten(treedef, gated.values())


def _real(kernel: jax.Array) -> jax.Array:
    return kernel.real.astype(wide_dtype(kernel.real.dtype))


def _product(weight: Any, slope: Any) -> jax.Array:
    """Returns w * dL/dw, of complex weights what a step along the weight changes."""
    wide = wide_dtype(jnp.asarray(weight).dtype)
    return (jnp.asarray(weight, wide) * jnp.asarray(slope, wide)).real


def _saliency(slots: Sequence[Slot | Section], products: Mapping[str, jax.Array]) -> jax.Array:
    parts = [slot.owned(slot.along(products[slot.path])) for slot in slots]
    return jnp.abs(sum(parts[1:], parts[0]))


def _open(graph: ChannelGraph, saliency: Mapping[str, jax.Array], ratio: Any) -> dict[str, Any]:
    """The channels of the highest saliency among all, and the best ones of every group."""
    flat = jnp.concatenate([found.ravel() for found in saliency.values()])
    count = jnp.round((1 - jnp.asarray(ratio)) * flat.size).astype(jnp.int32)
    chosen = _ranks(flat) < count
    found, start = {}, 0
    for name, own in saliency.items():
        mask = chosen[start : start + own.size].reshape(own.shape)
        found[name] = mask | (_ranks(own) < graph.groups[name].least)
        start += own.size
    return found


def _ranks(values: jax.Array) -> jax.Array:
    """The place of each number along the last axis from the highest down, ties in their order."""
    order = jnp.argsort(-values, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True)


def _checked(graph: ChannelGraph, keep: Any, groups: Members) -> dict[str, jax.Array]:
    """Returns the masks in the shapes of their groups.

    Raises:
      KeepError: see `gated_filters`.
    """
    masks, failures = host_masks(keep), []
    for name, mask in masks.items():
        if name not in groups:
            failures.append(
                f"keep names {name!r}, which is not a group with a kernel that makes it"
            )
        elif mask is None or mask.dtype != np.bool_ or mask.shape != graph.groups[name].shape:
            wanted = list(graph.groups[name].shape)
            failures.append(
                f"keep for group {name!r} must be bool{wanted}, got {kind_of(keep[name])}"
            )
    if failures:
        raise KeepError("\n".join([*failures, "Fix: keep = state.keep, of jp.sparsify.gdp."]))
    return {name: jnp.asarray(mask) for name, mask in masks.items()}
