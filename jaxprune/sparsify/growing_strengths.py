"""Growing regularization: weight decay that rises on the channels that are to go."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_count, check_finite, check_positive
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import Members, members, norms, spread
from jaxprune.groups.constraints import Groups
from jaxprune.sparsify.ordered_norms import check_vectors
from jaxprune.sparsify.penalty import Leaves, on_variables

Norms = Mapping[str, jax.Array]
Growth = Callable[[Norms], Norms]
"""From {group: norms, f[n]} to how much the strength of each channel grows, 0 to 1."""


class GrowingState(NamedTuple):
    """State of `growing_decay`."""

    step: jax.typing.ArrayLike  # int32[], updates so far
    strengths: dict[str, jax.Array]  # {group: f32[n]}, the decay of each channel


def growing_decay(
    graph: ChannelGraph,
    growth: Growth,
    *,
    delta: float,
    period: int,
    ceiling: float,
    roles: Collection[str] = ("out",),
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformationExtraArgs:
    """Adds weight decay with a strength for each channel, which rises every `period` updates.

      before each update whose number is a multiple of `period`:
        strength_c  <-  min(strength_c + delta * growth(norms)_c, ceiling)
      gradient of w  <-  gradient + sum over the v_c that hold w of strength_c * w

    from strengths of 0, with v_c as in `structured`; of complex weights the conjugate is added, as
    `jax.grad` gives it. Its place in a chain is in front. GReg-1 grows on channels that are chosen
    beforehand, `lambda norms: {n: ~keep[n] for n in norms}`; GReg-2 on all alike, `everywhere`,
    which spreads the norms so that they tell what to prune, and then goes on as GReg-1. DepGraph's
    way is `weak_first`: the smaller a norm, the faster it grows.
    Channels shrink toward zero and do not reach it: at the end they are cut, by a keep or by norms.

    Args:
      graph: what `jaxprune.trace` returned.
      growth: from {group: norms, f[n]} to {group: f[n]}: the share of `delta` that each takes.
      delta: how much a strength grows in a period, at least 0; 1e-4 in the paper.
      period: updates between two growths.
      ceiling: the largest strength, at least 0; 1 (GReg-1) and 0.01 (GReg-2) in the paper.
      roles: the slots whose entries v_c holds: "out", "in" or both.
      only: names, patterns or kinds of the only groups that decay; all by default.
      protect: names, patterns or kinds of groups that do not.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      JaxpruneError: a number is out of range, a role is unknown, or (from `init`) `growth` gives
        other groups or shapes.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    Source: Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021, algorithms 1 and 2.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.ones((2, 1))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = growing_decay(graph, weak_first, delta=0.5, period=1, ceiling=1.0)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> updates["a"].tolist()
    [[0.0, 0.5]]
    """
    name = "growing_decay"
    check_callable(growth, f"{name}: growth", "growth=jp.sparsify.weak_first.")
    delta = check_finite(delta, f"{name}: delta", "delta=1e-4.")
    ceiling = check_finite(ceiling, f"{name}: ceiling", "ceiling=1.0.")
    period = check_count(period, f"{name}: period", "period=5.")
    groups = members(graph, roles, only=only, protect=protect)
    shapes = {group: graph.groups[group].shape for group in groups}
    kernels = [slot.path for slots in groups.values() for slot in slots]

    def begin() -> GrowingState:
        seen = {
            path: jax.ShapeDtypeStruct(graph.variables[path].shape, jnp.float32) for path in kernels
        }
        jax.eval_shape(lambda weights: _grown(groups, growth, weights), seen)
        strengths = {group: jnp.zeros(shape) for group, shape in shapes.items()}
        return GrowingState(step=jnp.zeros([], jnp.int32), strengths=strengths)

    def change(state: GrowingState, values: Leaves, old: Leaves) -> tuple[Leaves, GrowingState]:
        weights = {path: wide(jnp.asarray(leaf)) for path, leaf in values.items()}

        def grow() -> dict[str, jax.Array]:
            more = _grown(groups, growth, weights)
            return {
                n: jnp.minimum(s + delta * more[n], ceiling) for n, s in state.strengths.items()
            }

        due = jnp.remainder(jnp.asarray(state.step), period) == 0
        strengths, changed = jax.lax.cond(due, grow, lambda: state.strengths), dict(old)
        for group, slots in groups.items():
            for slot in slots:
                leaf, w = changed[slot.path], weights[slot.path]
                each = spread(strengths[group].astype(w.real.dtype), slot, w)
                inside = 1 - spread(jnp.zeros(shapes[group], w.real.dtype), slot, w)
                changed[slot.path] = leaf + (each * inside * w.conj()).astype(leaf.dtype)
        return changed, state._replace(strengths=strengths)

    return on_variables(name, graph, kernels, change, begin, GrowingState)


def everywhere(norms: Norms) -> Norms:
    """Returns 1 for every channel: all strengths grow alike, as in GReg-2.

    >>> everywhere({"a": jnp.array([3.0, 1.0])})["a"].tolist()
    [1.0, 1.0]
    """
    return {name: jnp.ones_like(each) for name, each in _checked("everywhere", norms).items()}


def weak_first(norms: Norms) -> Norms:
    """Returns (max - norm) / (max - min) of every group: the weakest channel grows by all of it.

    The strongest does not grow at all; where all norms are equal, none does.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; the released code's
    growing regularization. There equal norms give 0 / 0.

    >>> weak_first({"a": jnp.array([3.0, 1.0, 2.0])})["a"].tolist()
    [0.0, 1.0, 0.5]
    """
    return {name: _weakness(each) for name, each in _checked("weak_first", norms).items()}


def weighted_decay(base: float = 16.0) -> Callable[[jax.Array], jax.Array]:
    """Returns the penalty `sum base ** weakness_c * norms[c] ** 2 / 2`, for `structured`.

    Its gradient is a weight decay, strength * base ** weakness_c * w, whose weights move with the
    norms and take no gradient themselves: 1 for the strongest channel of a group and `base` for the
    weakest, by (max - norm) / (max - min) as in `weak_first`.

      tx = optax.chain(structured(graph, weighted_decay(), strength=1e-4), optax.sgd(0.1))

    Args:
      base: above 0; the paper's 2 ** alpha with alpha = 4.

    Raises:
      JaxpruneError: `base` is not above 0 and finite, or the norms are no vector.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, equation 4. Where
    all norms are equal the released code has 0 / 0; here all weights are 1.

    >>> penalty = weighted_decay(4.0)
    >>> jax.grad(penalty)(jnp.array([3.0, 1.0, 2.0])).tolist()
    [3.0, 4.0, 4.0]
    """
    base = check_positive(base, "weighted_decay: base", "base=16.0.")

    def penalty(norms: jax.Array) -> jax.Array:
        check_vectors(norms=norms)
        weights = jax.lax.stop_gradient(base ** _weakness(norms))
        return (weights * norms**2).sum() / 2

    return penalty


def _weakness(norms: jax.Array) -> jax.Array:
    high, low = norms.max(axis=-1, keepdims=True), norms.min(axis=-1, keepdims=True)
    return (high - norms) / jnp.where(high > low, high - low, 1)


def _checked(what: str, given: Any) -> Norms:
    return check_mapping(given, f"{what}: norms", "{group: f[n]}", JaxpruneError)


def _grown(groups: Members, growth: Growth, weights: Mapping[str, jax.Array]) -> Norms:
    """Returns how much each channel grows, as floats of the shapes of the norms."""
    before = {group: norms(slots, weights) for group, slots in groups.items()}
    after = growth(before)
    given = after if isinstance(after, Mapping) else {}
    shapes = {group: each.shape for group, each in before.items()}
    shapes_given = {group: getattr(each, "shape", None) for group, each in given.items()}
    if shapes_given != shapes:
        raise JaxpruneError(
            f"growing_decay: growth gives {shapes_given or kind_of(after)} for norms of {shapes}.\n"
            "Fix: growth=jp.sparsify.weak_first, {group: f[n]} for every group."
        )
    return {group: jnp.asarray(each, jnp.float32) for group, each in given.items()}
