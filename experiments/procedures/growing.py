"""Growing regularization: which channels it grows on, chosen once and kept in its state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp

Keep = dict[str, jax.Array]


class ChosenState(NamedTuple):
    """State of `growing`."""

    keep: Keep  # {group: bool[n]}, all False before the choice: the strengths of all grow
    decay: Any  # the GrowingState


def growing(
    graph: jp.ChannelGraph,
    *,
    keep_ratio: float,
    delta: float,
    period: int,
    spread: int = 0,
    ceiling: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Returns the decay that rises on the channels of least L1 norm, in each group the same share.

    Args:
      graph: of the network.
      keep_ratio: share of the channels of every group that it leaves alone.
      delta: how much a strength grows in a period.
      period: updates between two growths.
      spread: updates in which the decay rises on all channels, before the choice (GReg-2).
      ceiling: the largest strength.

    Source: Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021, algorithms 1 and 2.
    """

    def decay(keep: Keep) -> optax.GradientTransformationExtraArgs:
        return jp.sparsify.growing_decay(
            graph,
            lambda norms: {name: ~keep[name] for name in norms},
            delta=delta,
            period=period,
            ceiling=ceiling,
        )

    def choice(params: Any) -> Keep:
        norms = jp.scores.l1(graph, {"params": params})
        return {n: kept > 0 for n, kept in jp.sparsify.largest_in_each(keep_ratio)(norms).items()}

    def init(params: Any) -> ChosenState:
        keep = choice(params)
        if spread:
            keep = jax.tree.map(jnp.zeros_like, keep)
        return ChosenState(keep, decay(keep).init(params))

    def update(
        updates: Any, state: ChosenState, params: Any = None, **extra: Any
    ) -> tuple[Any, ChosenState]:
        keep, inner = state
        if spread:
            now = inner.step == spread
            keep = jax.lax.cond(now, lambda: choice(params), lambda: keep)
            left = {n: jnp.where(keep[n], 0.0, own) for n, own in inner.strengths.items()}
            inner = inner._replace(strengths=left)
        updates, inner = decay(keep).update(updates, inner, params, **extra)
        return updates, ChosenState(keep, inner)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
