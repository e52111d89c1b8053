"""Gates of branches: what a residual sum adds to its stream, times a number."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.paths import near
from jaxprune.errors import GateError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import branches
from jaxprune.keep.check import is_branch
from jaxprune.program.jaxpr import Op

Gates = Mapping[str, Any]


class BranchSite(NamedTuple):
    """The sum that adds a branch: `operand` of `op` is gated; each step of `scan` has one."""

    op: Op
    operand: int
    name: str
    scan: Op | None

    def scaled(self, x: jax.Array, gates: Gates) -> jax.Array:
        """Returns the operand `x` times its gate, in the dtype of `x`."""
        gate = jnp.asarray(gates[self.name])
        if gate.dtype == jnp.bool_:
            return jnp.where(gate, x, jnp.zeros((), x.dtype))
        return (x * gate.astype(x.dtype)).astype(x.dtype)


def unit_branches(graph: ChannelGraph) -> dict[str, np.ndarray]:
    """Returns {branch: 1}, f32[] or f32[steps], for every branch: gates that change nothing.

    Example:
      >>> import jax, jaxprune as jp
      >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> graph = jp.trace(fn, v, np.ones((1, 4)))
      >>> gates = jp.gates.unit_branches(graph)
      >>> jp.gated(fn, graph)(v, gates, np.ones((1, 4))).tolist()
      [[132.0, 132.0]]
      >>> jp.gated(fn, graph)(v, {"+down": 0.0}, np.ones((1, 4))).tolist()
      [[4.0, 4.0]]
    """
    return {name: np.ones(item.shape, np.float32) for name, item in branches(graph).items()}


def gate_places(graph: ChannelGraph) -> dict[str, np.ndarray]:
    """Returns {branch: int[] or int[steps]}: the gates of all branches counted through."""
    found, start = {}, 0
    for name, item in branches(graph).items():
        size = item.steps or 1
        found[name] = np.arange(start, start + size).reshape(item.shape)
        start += size
    return found


def split_gates(graph: ChannelGraph, gates: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the gates of branches, in their shapes, and those of channels, unchecked.

    Raises:
      GateError: the graph has no such branch, or a gate is not a number of its shape.
    """
    given = check_mapping(gates, "gates", "{group: f32[n], branch: f32[]}", GateError)
    own = {n: v for n, v in given.items() if is_branch(n)}
    channels = {name: value for name, value in given.items() if name not in own}
    if not own:
        return {}, channels
    known, failures = branches(graph), []
    for name, gate in own.items():
        if name not in known:
            some = near(name, known) or list(known)[:5]
            failures.append(f"{name!r}: the graph has no such branch; near: {some}")
        elif not _is_number(gate) or np.shape(gate) not in {(), known[name].shape}:
            wanted = known[name].shape
            failures.append(f"{name!r}: its gate must be of shape {wanted}, got {kind_of(gate)}")
        else:
            own[name] = jnp.broadcast_to(jnp.asarray(gate), known[name].shape)
    if failures:
        fix = "Fix: jp.gates.unit_branches(graph) has all of them."
        raise GateError("\n".join(["these branches cannot have a gate:", *failures, fix]))
    return own, channels


def _is_number(gate: Any) -> bool:
    if isinstance(gate, jax.ShapeDtypeStruct):
        return False
    try:
        dtype = gate.dtype if isinstance(gate, jax.Array) else np.asarray(gate).dtype
    except (TypeError, ValueError):  # ragged lists, lists of traced values
        return False
    return jnp.issubdtype(dtype, np.floating) or dtype == np.bool_ or dtype.kind in "iu"


def branch_sites(graph: ChannelGraph, here: ChannelGraph, gates: Gates) -> list[BranchSite]:
    """Returns the sums of the graph of now that add these branches.

    Raises:
      GateError: the function does not have a branch of the `graph` now.
    """
    known = branches(here) if gates else {}
    if missing := [name for name in gates if name not in known]:
        raise GateError(
            f"the function does not have branches {missing} at these inputs.\nFix: trace the graph "
            "with the function and the input ranks that you run."
        )
    shapes = branches(graph) if gates else {}
    found = []
    for name in gates:
        item = known[name]
        assert item.shape == shapes[name].shape
        found.append(BranchSite(item.op, item.side, name, next(iter(item.op.scans), None)))
    return found
