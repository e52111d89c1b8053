"""Costs that know more than the graph: the sizes of state when it runs, and dtypes to come."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.numbers import is_count, is_integer, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph, Variable
from jaxprune.inspecting.closed_forms import ClosedForm, entries
from jaxprune.inspecting.parameters import parameters
from jaxprune.inspecting.terms import Product, Terms
from jaxprune.inspecting.without_branches import NOTHING, Without
from jaxprune.program import spaces as ax

Sizes = Mapping[str, Mapping[int, int]]


def state_bytes(*, sizes: Sizes | None = None, dtype: Any = None) -> ClosedForm:
    """Returns the cost: bytes of the state of a call, such as a KV cache or a recurrent state.

    It is that of all inputs that `state=` of `jp.trace` names, counters among them, without what
    goes with branches.

    Args:
      sizes: {pattern of paths: {axis: size}}, what these axes are when the network runs, such as
        batch and length; by default as traced. Paths are "cache/layer_0/k": the input, then the
        path in it. Of several patterns that match, later ones win axis by axis.
      dtype: of the floating numbers in the state; by default as traced.

    Raises:
      BudgetError: `sizes` is not such a mapping, or `dtype` not one of numbers; when it is called:
        an axis is not there or is pruned, or the graph has no state.
      PatternError: when it is called: a pattern matches nothing.

    >>> import numpy as np, jaxprune as jp
    >>> def step(v, x, cache):
    ...     cache = cache.at[:, 0].set(x @ v["key"])
    ...     return cache.sum(1) @ v["out"], cache
    >>> v = {"key": np.ones((4, 8), np.float32), "out": np.ones((8, 2), np.float32)}
    >>> x, cache = np.ones((1, 4), np.float32), np.zeros((1, 16, 8), np.float32)
    >>> graph = jp.trace(step, v, x, cache, state="cache")
    >>> at_run = jp.cost.state_bytes(sizes={"cache": {0: 32, 1: 4096}})
    >>> jp.cost.state_bytes()(graph), at_run(graph), at_run(graph, {"key": 6})
    (512, 4194304, 3145728)
    """
    given = {} if sizes is None else dict(check_mapping(sizes, "sizes", _SIZES, BudgetError))
    for axes in given.values():
        check_mapping(axes, "sizes of a pattern", "{axis: size}", BudgetError)
    if dtype is not None:
        bytes_of(dtype)
    other = None if dtype is None else jnp.dtype(dtype)

    def terms(graph: ChannelGraph, gone: Without | None) -> Terms:
        known, stay = {}, {}
        for name, state in graph.state.items():
            lost = NOTHING if gone is None else gone.state.get(name, NOTHING)
            for path, variable in state.variables.items():
                key = f"{name}/{path}".rstrip("/")
                known[key] = variable
                if path not in lost.variables:
                    rows = lost.rows.get(path)
                    stay[key] = {} if rows is None else {0: int(np.count_nonzero(rows))}
        if not known:
            raise BudgetError(
                "the graph has no state.\nFix: jp.trace(fn, variables, x, cache, state='cache')."
            )
        paths.require(given, known, what="sizes pattern")
        return [_bytes_at(path, known[path], given, other, rows) for path, rows in stay.items()]

    return ClosedForm("state_bytes", terms)


_SIZES = "{'cache/*/k': {0: batch, 1: length}}"


def _bytes_at(
    path: str, variable: Variable, sizes: Sizes, dtype: Any, rows: Mapping[int, int]
) -> Product:
    """The bytes of one leaf of state, of which some `rows` stay: {0: how many}."""
    floating = jnp.issubdtype(variable.dtype, jnp.floating)
    factor: Any = bytes_of(dtype if dtype is not None and floating else variable.dtype)
    asked = [each for pattern, each in sizes.items() if paths.matches(pattern, path)]
    at = {axis: plain(size) for each in (rows, *asked) for axis, size in each.items()}
    axes = list(enumerate(variable.axes))
    for axis, size in at.items():
        if not is_integer(axis) or not 0 <= axis < len(axes) or not is_count(size):
            raise BudgetError(
                f"sizes of {path!r} hold {axis!r}: {size!r}, but it has the axes 0 to "
                f"{len(axes) - 1}.\nFix: sizes={_SIZES}."
            )
        if named := [atom.name for atom in ax.atoms(variable.axes[axis]) if atom.name]:
            raise BudgetError(
                f"sizes: axis {axis} of {path!r} is pruned (group {named[0]!r}): its size follows "
                "the widths.\nFix: name axes that are not pruned, such as batch and length."
            )
        factor *= size
    return Product(factor, [space for axis, space in axes if axis not in at])


def weight_bytes(dtypes: Mapping[str, Any] | None = None) -> ClosedForm:
    """Returns the cost: bytes of the parameters (those that `jp.cost.params` counts).

    Args:
      dtypes: {pattern of paths: dtype} that they have when the network runs, by default their own;
        of several patterns that match a path the last one wins. Of numbers of four bits or less
        several share a byte.

    Raises:
      BudgetError: `dtypes` is not such a mapping; PatternError: a pattern matches nothing, when the
        cost is called.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4), np.float32), "second": np.ones((4, 3), np.float32)}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> quantized = jp.cost.weight_bytes({"first": "int8", "second": "int4"})
    >>> jp.cost.weight_bytes()(graph), quantized(graph), quantized(graph, {"first": 2})
    (80, 14.0, 7.0)
    """
    given = {} if dtypes is None else check_mapping(dtypes, "dtypes", "{path: dtype}", BudgetError)
    asked = {pattern: bytes_of(dtype) for pattern, dtype in given.items()}

    def terms(graph: ChannelGraph, gone: Without | None) -> Terms:
        found = parameters(graph)
        paths.require(asked, found, what="dtypes pattern")
        each = {path: bytes_of(graph.variables[path].dtype) for path in found}
        for pattern, size in asked.items():
            each |= {path: size for path in found if paths.matches(pattern, path)}
        return [term for path in found for term in entries(graph, path, gone, each[path])]

    return ClosedForm("weight_bytes", terms)


def bytes_of(dtype: Any) -> int | float:
    """Returns the bytes of a number of `dtype`: half a byte for four bits.

    Raises:
      BudgetError: `dtype` is not one of numbers.
    """
    try:
        found = None if dtype is None else jnp.dtype(dtype)  # None would be float64
    except (TypeError, ValueError):
        found = None
    if found is None or not any(jnp.issubdtype(found, kind) for kind in (jnp.number, jnp.bool_)):
        raise BudgetError(
            f"{kind_of(dtype)} is not a dtype of numbers.\nFix: 'int8', or jnp.bfloat16."
        )
    if jnp.issubdtype(found, jnp.integer):
        bits = jnp.iinfo(found).bits
    elif jnp.issubdtype(found, jnp.floating):
        bits = jnp.finfo(found).bits
    else:
        bits = 8 * found.itemsize
    return bits // 8 if bits % 8 == 0 else bits / 8
