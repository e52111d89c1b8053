"""GDP: gates of all channels by one order of saliency, in which closed channels may come back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.dtypes import wide_dtype
from jaxprune.arguments.numbers import check_count
from jaxprune.graph import ChannelGraph, Slot
from jaxprune.groups.channels import located
from jaxprune.groups.constraints import Groups, scope
from jaxprune.inspecting.makers import makers
from jaxprune.sparsify.penalty import check_ratio, check_update, value_at


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

    The gradients go through unchanged. The loss is that of `soft_mask`, where the filters of closed
    channels are zero and keep their gradient: they go on to train, and a channel that was closed by
    mistake opens again. Where two filters are multiplied (a gated unit), `spare` one of them there,
    or neither has a gradient. Every group keeps its best channel open. First in a chain:

      tx = optax.chain(jp.sparsify.gdp(graph, prune_ratio=0.5), optax.sgd(0.1))
      keep = optax.tree.get(tx.init(params), "keep")
      loss = lambda params, keep: task(jp.sparsify.soft_mask(graph, params, keep))

    In the end the masked variables are cut to what is open; stacked layers, which must keep the
    same number, fill up with filters of zeros:

      masked = jp.sparsify.soft_mask(graph, variables, keep)
      small = jp.slice(graph, masked, jp.gates.kept(graph, keep))

    What a BatchNorm or a bias makes of a filter of zeros stays until the cut, and
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
    >>> jp.sparsify.soft_mask(graph, params, state.keep)["a"].tolist()
    [[3.0, 0.0, 2.0]]
    """
    name = "gdp"
    prune_ratio = check_ratio(name, prune_ratio)
    period = check_count(period, f"{name}: period", "period=10.")
    made = makers(graph)
    chosen = scope(graph, list(made), only=only, protect=protect, purpose="that a kernel makes")
    groups = {group: made[group] for group in chosen}
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
        ratio = value_at(prune_ratio, state.step)

        def chosen() -> dict[str, jax.Array]:
            products = {p: _product(leaves[place], slopes[place]) for p, place in places.items()}
            return _open(graph, {n: _saliency(s, products) for n, s in groups.items()}, ratio)

        due = jnp.asarray(state.step) % period == 0
        every = jax.lax.cond(due, chosen, lambda: state.keep)
        return updates, GlobalGates(step=optax.safe_increment(state.step), keep=every)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _product(weight: Any, slope: Any) -> jax.Array:
    """Returns w * dL/dw, of complex weights what a step along the weight changes."""
    wide = wide_dtype(jnp.asarray(weight).dtype)
    return (jnp.asarray(weight, wide) * jnp.asarray(slope, wide)).real


def _saliency(slots: Sequence[Slot], products: Mapping[str, jax.Array]) -> jax.Array:
    parts = [slot.owned(slot.along(products[slot.path])) for slot in slots]
    return jnp.abs(sum(parts[1:], parts[0]))


def _open(graph: ChannelGraph, saliency: Mapping[str, jax.Array], ratio: Any) -> dict[str, Any]:
    """The channels of the highest saliency among all, and the best ones of every group."""
    flat = jnp.concatenate([each.ravel() for each in saliency.values()])
    count = jnp.round((1 - jnp.asarray(ratio)) * flat.size).astype(jnp.int32)
    chosen = _ranks(flat) < count
    masks, start = {}, 0
    for name, each in saliency.items():
        mask = chosen[start : start + each.size].reshape(each.shape)
        masks[name] = mask | (_ranks(each) < graph.groups[name].least)
        start += each.size
    return masks


def _ranks(values: jax.Array) -> jax.Array:
    """The place of each number along the last axis from the highest down, ties in their order."""
    order = jnp.argsort(-values, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True)
