"""What the penalties share: the frame of an update, the strength's schedule, and the checks."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_arrays, check_structure, kind_of
from jaxprune.arguments.numbers import check_finite, check_share, is_traced_number
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import located

Change = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]
Leaves = dict[str, Any]


class PenaltyState(NamedTuple):
    """State of every penalty of `jaxprune.sparsify`."""

    step: jax.typing.ArrayLike  # int32[], updates so far


def penalty(
    name: str, strength: float | optax.Schedule, mask: optax.Params, change: Change
) -> optax.GradientTransformation:
    """Returns the transformation that changes the updates of the masked leaves.

    Args:
      name: of the public function, for its errors.
      strength: a number, or a schedule from step to number.
      mask: tree of bools like the parameters.
      change: (strength, step, update, parameter) -> update.

    Raises:
      JaxpruneError: `strength` is negative or not finite.
      TreeError: (from `init`) `mask` does not mirror the parameters.
    """
    strength = check_strength(name, "strength", strength, "start from 1e-4.")
    fix = "mask=jaxprune.scale_mask(variables), of the same variables."
    if not all(isinstance(leaf, bool | np.bool_) for leaf in jax.tree.leaves(mask)):
        raise TreeError(f"{name}: the mask must be a tree of bools.\nFix: {fix}")

    def init(params: optax.Params) -> PenaltyState:
        check_arrays(params, f"{name}: the parameters")
        check_structure(mask, params, f"{name}: the mask", fix)
        return PenaltyState(step=jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates, state: PenaltyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PenaltyState]:
        check_update(name, updates, state, params)
        check_structure(mask, params, f"{name}: the mask", fix)
        weight = value_at(strength, state.step)

        def at(masked: bool, leaf: jax.Array, param: jax.Array) -> jax.Array:
            if not masked:
                return leaf
            return jnp.asarray(change(weight, state.step, leaf, param), leaf.dtype)

        updates = jax.tree.map(at, mask, updates, params)
        return updates, PenaltyState(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def on_variables(
    name: str,
    graph: ChannelGraph,
    wanted: Collection[str],
    change: Callable[[Any, Leaves, Leaves], tuple[Mapping[str, Any], Any]],
    begin: Callable[[], Any] = lambda: PenaltyState(step=jnp.zeros([], jnp.int32)),
    kind: type = PenaltyState,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that changes the updates of some variables of a graph.

    Args:
      name: of the public function, for its errors.
      graph: whose variables they are.
      wanted: their paths; the parameters may be those alone or the whole variables.
      change: (state, {path: parameter}, {path: update}) -> {path: changed update}, and the state,
        a named tuple with a `step`, which is counted here.
      begin: the state before the first update.
      kind: its type.

    Raises:
      TreeError: (from `init`) the parameters lack one of them, or it has another shape.
    """

    def init(params: optax.Params) -> Any:
        located(name, graph, wanted, paths.flatten(params)[0])
        return begin()

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        del extra
        check_update(name, updates, state, params, kind)
        leaves, named = paths.flatten(params)[0], paths.flatten(updates)[0]
        places = located(name, graph, wanted, leaves)
        values, old = ({p: of[place] for p, place in places.items()} for of in (leaves, named))
        changed, state = change(state, values, old)
        named |= {places[path]: leaf for path, leaf in changed.items()}
        state = state._replace(step=optax.safe_increment(state.step))
        return jax.tree.unflatten(jax.tree.structure(updates), named.values()), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def check_strength(name: str, argument: str, value: Any, example: str) -> Any:
    """Returns a schedule as it is, and a number as Python's unless it is traced.

    Raises:
      JaxpruneError: the number is not finite and at least 0.
    """
    if callable(value) and not isinstance(value, type):
        return value
    fix = f"{example.removesuffix('.')}; or pass a schedule, a function of the step."
    return check_finite(value, f"{name}: {argument}", fix)


def check_ratio(name: str, value: Any) -> Any:
    """Returns a schedule or a traced number as it is, and a share as Python's number.

    Raises:
      JaxpruneError: the number is not in [0, 1].
    """
    if is_traced_number(value) or (callable(value) and not isinstance(value, type)):
        return value
    return check_share(value, f"{name}: prune_ratio", "prune_ratio=0.3, or a schedule.")


def value_at(value: Any, step: Any) -> Any:
    """Returns a number as it is, and what a schedule says of a step."""
    return value(step) if callable(value) else value


def check_update(
    name: str, updates: Any, state: Any, params: Any, kind: type = PenaltyState
) -> None:
    """Raises unless the arguments of an `update` are those of the parameters."""
    if params is None:
        raise JaxpruneError(
            f"{name}: update needs the parameters, which it shrinks.\n"
            "Fix: tx.update(gradients, state, params)."
        )
    if not isinstance(state, kind):
        raise JaxpruneError(
            f"{name}: expected its state, got {kind_of(state)}.\nFix: state = tx.init(params)."
        )
    check_arrays(params, f"{name}: the parameters")
    check_arrays(updates, f"{name}: the updates")
    check_structure(updates, params, f"{name}: the tree of updates", "the gradients by params.")
