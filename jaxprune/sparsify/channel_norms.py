"""Penalties on the norms of channels, by their subgradients."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, check_flag, check_options
from jaxprune.arguments.dtypes import wide_dtype
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import Members, located, norms, size
from jaxprune.groups.constraints import Groups
from jaxprune.sparsify.penalty import PenaltyState, check_strength, check_update, value_at
from jaxprune.sparsify.sections import Sets, penalized

Penalty = Callable[[jax.Array], jax.Array]
"""From the norms of a group's channels, f[n], to a number."""

View = Callable[[optax.Params, Any], optax.Params]
"""From the parameters and the `variables` of `update` to the parameters that a penalty sees."""


class Options(TypedDict, total=False):
    """What every penalty on the norms of channels accepts."""

    size_norm: bool  # True: a norm counts times the root of its number of weights; default False
    view: View  # the penalty is that of view(params, variables); default: of params themselves
    only: Groups | None  # names, patterns or kinds of the only groups penalized; default all
    protect: Groups  # names, patterns or kinds of groups that are not penalized; default none


def structured(
    graph: ChannelGraph,
    penalty: Penalty,
    *,
    strength: float | optax.Schedule = 1.0,
    roles: Collection[str] = ("out", "in"),
    over: Sets | None = None,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """Adds the subgradient of `strength * sum over groups of penalty(norms)` to the gradients.

    norms[c] = ||v_c||_2, where v_c concatenates the kernel entries that make channel c of the
    group (its `out` slots) and those that read it (its `in` slots); biases, scales and statistics
    are not part of it. With g_c = d penalty / d norms[c],

      gradient of w  <-  gradient + strength * sum over the v_c that hold w of g_c * w / ||v_c||

    and 0 where v_c is zero. A kernel makes the channels of one group and reads those of another,
    so the v_c overlap and their subgradients add up; an entry that makes and reads the same channel
    of a residual stream counts twice. The place in a chain is in front of everything else. Norms
    are computed in float32, or in float64 for such parameters; of complex ones they are those of
    the moduli, and the subgradient is what `jax.grad` gives. The loss that the training loop
    reports does not contain the penalty, and no channel becomes exactly zero.

    Args:
      graph: what `jaxprune.trace` returned.
      penalty: from the norms of one group, f[n], to a number; differentiable. `jnp.sum` gives
        `oicsr`, `growl(weights)` an ordered one. Every layer of a stack counts by itself.
      strength: coefficient, at least 0, or a schedule of it.
      roles: the slots whose entries v_c holds: "out", "in" or both.
      over: sets of weights in the place of channels: `shapes(graph)` or `depth(graph)`.
      **options: see `Options`.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables,
      and hands its argument `variables` to `view`.

    Raises:
      JaxpruneError: `strength` is negative or not finite, a role is unknown, or (from `update`) the
        penalty is not a number.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0], [0.0]])}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = structured(graph, lambda norms: (norms**2).sum() / 2)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> updates["a"].tolist(), updates["b"].tolist()
    ([[3.0, 0.0]], [[4.0], [0.0]])
    """
    sets = channels("structured", graph, roles, options, over, usual=("out", "in"))
    return lifted("structured", graph, penalty, strength, sets, options)


def lifted(
    name: str,
    graph: ChannelGraph,
    penalty: Penalty,
    strength: float | optax.Schedule,
    groups: Members,
    options: Options,
) -> optax.GradientTransformationExtraArgs:
    """Returns `structured`, with errors in the name of the public function."""
    strength = check_strength(name, "strength", strength, "start from 1e-5.")
    check_callable(penalty, f"{name}: penalty", "penalty=jnp.sum, a function of norms f[n].")
    check_flag(sized := options.get("size_norm", False), "size_norm")
    factors = {
        group: size(graph, slots) ** 0.5 if sized else 1.0 for group, slots in groups.items()
    }
    view = options.get("view")
    check_callable(view, "view", "view=fold_batch_norm(graph).", optional=True)
    kernels = [slot.path for slots in groups.values() for slot in slots]

    def init(params: optax.Params) -> PenaltyState:
        located(name, graph, kernels, paths.flatten(params)[0])
        return PenaltyState(step=jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates,
        state: PenaltyState,
        params: optax.Params | None = None,
        *,
        variables: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PenaltyState]:
        del extra
        check_update(name, updates, state, params)
        leaves, treedef = paths.flatten(params)
        places = located(name, graph, kernels, leaves)

        def total(moving: Mapping[str, jax.Array]) -> jax.Array:
            seen = {**leaves, **moving}
            if view is not None:
                tree = view(jax.tree.unflatten(treedef, seen.values()), variables)
                seen = paths.flatten(tree)[0]
            weights = {path: seen[place] for path, place in places.items()}
            sizes = (factors[group] * norms(slots, weights) for group, slots in groups.items())
            return sum((_penalty_of(name, penalty, n) for n in sizes), jnp.zeros(()))

        weight = value_at(strength, state.step)
        moving = _moving(leaves if view else {p: leaves[p] for p in places.values()})
        named, structure = paths.flatten(updates)
        for path, slope in jax.grad(total)(moving).items():
            named[path] += (weight * slope).astype(named[path].dtype)
        state = PenaltyState(step=optax.safe_increment(state.step))
        return jax.tree.unflatten(structure, named.values()), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def channels(
    name: str,
    graph: ChannelGraph,
    roles: Collection[str],
    options: Options,
    over: Sets | None = None,
    usual: Collection[str] = (),
) -> Members:
    """Returns what a penalty is over, by the options of a public function."""
    check_options(options, Options, name)
    only, protect = options.get("only"), options.get("protect", ())
    return penalized(name, graph, roles, over, usual=usual, only=only, protect=protect)


def _penalty_of(name: str, penalty: Penalty, sizes: jax.Array) -> jax.Array:
    """Returns the penalty of norms f[*layers, n], of all layers together.

    Raises:
      JaxpruneError: it is not a number.
    """
    terms = jax.vmap(penalty)(sizes) if sizes.ndim == 2 else penalty(sizes)
    if jnp.shape(terms) != sizes.shape[:-1]:
        got = list(jnp.shape(terms)[sizes.ndim - 1 :])
        raise JaxpruneError(
            f"{name}: penalty gives f{got} for norms f{list(sizes.shape[-1:])}, not a number.\n"
            "Fix: penalty=jnp.sum, or lambda norms: something(norms).sum()."
        )
    return jnp.sum(terms)


def _moving(leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the leaves that have a gradient, in float32 or higher."""
    return {
        path: jnp.asarray(leaf, wide_dtype(leaf.dtype))
        for path, leaf in leaves.items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
