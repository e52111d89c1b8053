"""Learning-compression and ADMM: weights that train, and compressed ones that they are drawn to."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_arrays, check_callable, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_count, check_positive
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import Members, located, norms, spread
from jaxprune.groups.constraints import Groups
from jaxprune.sparsify.penalty import check_strength, check_update, value_at
from jaxprune.sparsify.projections import Projection
from jaxprune.sparsify.sections import Sets, penalized

NAME = "learning_compression"


class CompressionState(NamedTuple):
    """State of `learning_compression`; both hold the kernels alone, by their paths."""

    step: jax.typing.ArrayLike  # int32[], updates so far
    compressed: dict[str, jax.Array]  # theta (ADMM: Z)
    multiplier: dict[str, jax.Array]  # lambda (ADMM: -rho U)


def learning_compression(
    graph: ChannelGraph,
    projection: Projection,
    *,
    strength: float | optax.Schedule,
    period: int,
    roles: Collection[str] = ("out",),
    over: Sets | None = None,
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformationExtraArgs:
    """Draws weights to compressed ones by an augmented Lagrangian, in rounds of `period` steps.

      start:  theta = Proj(w),  lambda = 0
      L step, every update:  gradient of w  <-  gradient + mu * (w - theta) - lambda
      C step, after every `period` updates:
        theta   <-  Proj(w - lambda / mu)
        lambda  <-  lambda - mu * (w - theta)

    with mu = strength(round); of complex weights the conjugate is added, as `jax.grad` gives it.
    Proj scales every z_c (as v_c of `structured`) to the norm that `projection` makes of its own;
    of z_c that share entries each takes its factor. The place in a chain is in front of everything
    else. With a growing strength such as
    `lambda k: 9e-5 * 1.1**k` it is LC; with a constant one (rho) it is ADMM, whose scaled dual is
    U = -lambda / rho. Single weights in the place of channels, as both papers prune them, are

      learning_compression(graph, largest_of_all(0.1), over=jp.sparsify.entries(graph), ...)

    At the end `compressed` puts theta in the place of the weights, with exact zeros, and what
    follows trains by `jp.schedule.masked_updates` or is cut.

    Args:
      graph: what `jaxprune.trace` returned.
      projection: `largest_in_each`, `largest_of_all` or `norm_ball`, or any function from the norms
        of all groups, {group: f[n]}, to smaller ones.
      strength: mu, above 0, or a schedule of it by the round, from 0.
      period: updates of a round.
      roles: the slots whose entries z_c holds: "out", "in" or both.
      over: sets of weights in the place of channels: `shapes(graph)`, `depth(graph)` or
        `entries(graph)`.
      only: names, patterns or kinds of the only groups that are compressed; all by default.
      protect: names, patterns or kinds of groups that are not.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      JaxpruneError: `strength` is not above 0 and finite, `period` is no count, a role is unknown,
        or (from `init`) the projection gives other groups or shapes.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    Source: Carreira-Perpiñán and Idelbayev, "Learning-Compression Algorithms for Neural Net
    Pruning", CVPR 2018, figure 2; Zhang et al., "A Systematic DNN Weight Pruning Framework using
    Alternating Direction Method of Multipliers", ECCV 2018, section 3. Deviation: the L step is
    `period` steps of the optimizer, which keeps its state.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.ones((2, 1))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> half = jp.sparsify.largest_in_each(0.5)
    >>> tx = jp.sparsify.learning_compression(graph, half, strength=0.5, period=10)
    >>> state = tx.init(params)
    >>> tx.update(jax.tree.map(jnp.zeros_like, params), state, params)[0]["a"].tolist()
    [[0.0, 0.5]]
    >>> jp.sparsify.compressed(params, state)["a"].tolist()
    [[3.0, 0.0]]
    """
    strength = check_strength(NAME, "strength", strength, "start from 1e-3.")
    if isinstance(strength, int | float):
        check_positive(strength, f"{NAME}: strength", "start from 1e-3.")
    period = check_count(period, f"{NAME}: period", "period=steps of an epoch.")
    check_callable(projection, f"{NAME}: projection", "jp.sparsify.largest_in_each(0.5).")
    sets = penalized(NAME, graph, roles, over, usual=("out",), only=only, protect=protect)
    kernels = [slot.path for slots in sets.values() for slot in slots]

    def init(params: optax.Params) -> CompressionState:
        leaves = paths.flatten(params)[0]
        places = located(NAME, graph, kernels, leaves)
        theta = _projected(
            sets, projection, {p: wide(jnp.asarray(leaves[place])) for p, place in places.items()}
        )
        return CompressionState(
            step=jnp.zeros([], jnp.int32),
            compressed={places[path]: leaf for path, leaf in theta.items()},
            multiplier={places[path]: jnp.zeros_like(leaf) for path, leaf in theta.items()},
        )

    def update(
        updates: optax.Updates,
        state: CompressionState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, CompressionState]:
        del extra
        check_update(NAME, updates, state, params, CompressionState)
        leaves, named = paths.flatten(params)[0], paths.flatten(updates)[0]
        places = located(NAME, graph, kernels, leaves)
        weights = {path: wide(jnp.asarray(leaves[place])) for path, place in places.items()}
        step = jnp.asarray(state.step)
        due = (step > 0) & (jnp.remainder(step, period) == 0)
        before = [{p: old[place] for p, place in places.items()} for old in state[1:]]

        def c_step() -> list[dict[str, jax.Array]]:
            mu = value_at(strength, step // period - 1)
            return _c_step(sets, projection, weights, before[1], mu)

        theta, multiplier = jax.lax.cond(due, c_step, lambda: before)
        mu = value_at(strength, step // period)
        for path, place in places.items():
            pull = (mu * (weights[path] - theta[path]) - multiplier[path]).conj()
            named[place] += (pull * _inside(sets, path, pull)).astype(named[place].dtype)
        kept = ({places[path]: leaf for path, leaf in now.items()} for now in (theta, multiplier))
        state = CompressionState(optax.safe_increment(state.step), *kept)
        return jax.tree.unflatten(jax.tree.structure(updates), named.values()), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def compressed(params: optax.Params, state: CompressionState) -> optax.Params:
    """Returns the parameters with the compressed kernels of the last C step in their places.

    Args:
      params: those that were trained.
      state: of `learning_compression`; of a chain, the entry of it.

    Raises:
      JaxpruneError: `state` is another one.
      TreeError: the parameters are not those that it was made for.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> params = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.ones((2, 1))}
      >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
      >>> half = jp.sparsify.largest_in_each(0.5)
      >>> tx = jp.sparsify.learning_compression(graph, half, strength=0.5, period=10)
      >>> jp.sparsify.compressed(params, tx.init(params))["a"].tolist()
      [[3.0, 0.0]]
    """
    if not isinstance(state, CompressionState):
        raise JaxpruneError(
            f"compressed: expected the state of {NAME}, got {kind_of(state)}.\n"
            "Fix: state=opt_state[0], its place in the chain."
        )
    check_arrays(params, "compressed: the parameters")
    leaves, treedef = paths.flatten(params)
    for path, theta in state.compressed.items():
        if path not in leaves or jnp.shape(leaves[path]) != theta.shape:
            raise TreeError(
                f"compressed: the parameters have no {path!r} of shape {theta.shape}.\n"
                "Fix: pass the parameters that the state was made for."
            )
        leaves[path] = theta.astype(jnp.asarray(leaves[path]).dtype)
    return jax.tree.unflatten(treedef, leaves.values())


def _c_step(
    sets: Members,
    projection: Projection,
    weights: Mapping[str, jax.Array],
    multiplier: Mapping[str, jax.Array],
    mu: Any,
) -> list[dict[str, jax.Array]]:
    """Returns theta and lambda: lambda - mu * (w - theta) is mu * (theta - (w - lambda / mu))."""
    drawn = {path: w - multiplier[path] / mu for path, w in weights.items()}
    theta = _projected(sets, projection, drawn)
    after = {path: mu * (theta[path] - w) for path, w in drawn.items()}
    return [{p: now[p].astype(weights[p].dtype) for p in now} for now in (theta, after)]


def _projected(
    sets: Members, projection: Projection, weights: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the weights with the norms that the projection makes of theirs."""
    before = {name: norms(slots, weights) for name, slots in sets.items()}
    after = projection(before)
    shapes = {name: each.shape for name, each in before.items()}
    given = after if isinstance(after, Mapping) else {}
    got = {name: getattr(each, "shape", None) for name, each in given.items()}
    if got != shapes:
        raise JaxpruneError(
            f"{NAME}: the projection gives {got or kind_of(after)} for norms of {shapes}.\n"
            "Fix: projection=jp.sparsify.largest_in_each(0.5)."
        )
    projected = dict(weights)
    for name, slots in sets.items():
        factors = after[name] / jnp.where(before[name] > 0, before[name], 1)
        for slot in slots:
            leaf = projected[slot.path]
            projected[slot.path] = leaf * spread(factors, slot, leaf).astype(leaf.dtype)
    return projected


def _inside(sets: Members, path: str, leaf: jax.Array) -> jax.Array:
    """Returns 1 at the entries of a kernel that are in a set, else 0."""
    outside = jnp.ones(leaf.shape, leaf.real.dtype)
    for slot in (slot for slots in sets.values() for slot in slots if slot.path == path):
        sizes = jax.eval_shape(lambda w, s=slot: s.owned(s.along(w)), leaf.real)
        outside *= spread(jnp.zeros(sizes.shape, leaf.real.dtype), slot, leaf)
    return 1 - outside
