"""L1 regularization of gates by accelerated proximal gradient, which shuts them exactly."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.checks import check_arrays, check_flag, kind_of
from jaxprune.arguments.numbers import check_finite, is_traced_number
from jaxprune.errors import JaxpruneError
from jaxprune.sparsify.penalty import check_strength, check_update, value_at


class AcceleratedState(NamedTuple):
    """State of `accelerated_l1_gates`."""

    step: jax.typing.ArrayLike  # int32[], updates so far
    momentum: optax.Updates  # v of every gate


def accelerated_l1_gates(
    strength: float | optax.Schedule,
    *,
    learning_rate: float | optax.Schedule,
    momentum: float = 0.9,
    nonnegative: bool = True,
) -> optax.GradientTransformation:
    """Steps gates by Nesterov's accelerated gradient with the proximal operator of an L1 norm.

      z  =  soft(gate - learning_rate * gradient, learning_rate * strength)
      v  <-  z - gate + momentum * v
      gate  <-  max(z + momentum * v, 0)

    with soft(z, t) = sign(z) * max(|z| - t, 0). It is the whole optimizer of the gates: it takes
    the gradients of the loss and gives the finished update, and nothing else (no weight decay)
    comes near them. They begin at one, on whatever is to go: channels, heads or the groups of a
    convolution, which are channel groups, and branches,

      gates = jp.gates.unit(graph) | jp.gates.unit_branches(graph)
      slopes = jax.grad(lambda gates: loss(jp.gated(fn, graph)(variables, gates, x)))(gates)

    and what ends at zero is cut, the rest folded into the weights:

      keep = {name: gate != 0 for name, gate in gates.items()}
      small = jp.slice(graph, jp.gates.fold(graph, variables, gates), keep)

    A keep empties no group of channels: where all of its gates are zero, its branch is what goes.

    Args:
      strength: coefficient of the penalty, at least 0, or a schedule of it.
      learning_rate: of the gates, at least 0, or a schedule of it.
      momentum: in [0, 1).
      nonnegative: whether negative gates are clipped. Without it a gate that momentum carries past
        zero comes back from below, and is zero only where it comes to rest.

    Returns:
      A transformation whose `update` needs `params`, the gates.

    Raises:
      JaxpruneError: a number is out of range, or (from `init`) gates are not real floats.

    Source: Huang and Wang, "Data-Driven Sparse Structure Selection for Deep Neural Networks", ECCV
    2018, equations 8 to 10; the clip is that of the released code.

    >>> gates = {"a": jnp.array([1.0, 0.25])}
    >>> tx = accelerated_l1_gates(1.0, learning_rate=0.5, momentum=0.5)
    >>> updates, _ = tx.update({"a": jnp.zeros(2)}, tx.init(gates), gates)
    >>> optax.apply_updates(gates, updates)["a"].tolist()  # z = 0.5 and 0, v = -0.5 and -0.25
    [0.25, 0.0]
    """
    name = "accelerated_l1_gates"
    strength = check_strength(name, "strength", strength, "start from 1e-2.")
    learning_rate = check_strength(name, "learning_rate", learning_rate, "start from 1e-2.")
    friction = _momentum(name, momentum)
    check_flag(nonnegative, "nonnegative")

    def init(params: optax.Params) -> AcceleratedState:
        _check_real(name, check_arrays(params, f"{name}: the gates"))
        return AcceleratedState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: AcceleratedState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AcceleratedState]:
        check_update(name, updates, state, params, AcceleratedState)
        rate = value_at(learning_rate, state.step)
        limit = rate * value_at(strength, state.step)

        def shrunk(gate: jax.Array, slope: jax.Array) -> jax.Array:
            stepped = gate - rate * slope
            return jnp.sign(stepped) * jnp.maximum(jnp.abs(stepped) - limit, 0)

        def ended(z: jax.Array, v: jax.Array, gate: Any) -> jax.Array:
            after = z + friction * v
            step = (jnp.maximum(after, 0) if nonnegative else after) - gate
            return step.astype(jnp.asarray(gate).dtype)

        z = jax.tree.map(shrunk, params, updates)
        moved = jax.tree.map(
            lambda z, gate, v: (z - gate + friction * v).astype(v.dtype),
            *(z, params, state.momentum),
        )
        state = AcceleratedState(optax.safe_increment(state.step), moved)
        return jax.tree.map(ended, z, moved, params), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _momentum(name: str, value: Any) -> Any:
    if is_traced_number(value):
        return value
    number = check_finite(value, f"{name}: momentum", "momentum=0.9.")
    if number >= 1:
        raise JaxpruneError(f"{name}: momentum must be in [0, 1), got {value!r}.\nFix: 0.9.")
    return number


def _check_real(name: str, gates: dict[str, Any]) -> None:
    other = {path: kind_of(gate) for path, gate in gates.items() if not _is_real(gate)}
    if other:
        raise JaxpruneError(
            f"{name}: the gates must be a tree of real floats, got {other}.\n"
            "Fix: gates=jp.gates.unit(graph) | jp.gates.unit_branches(graph)."
        )


def _is_real(gate: Any) -> bool:
    return jnp.issubdtype(getattr(gate, "dtype", type(gate)), jnp.floating)
