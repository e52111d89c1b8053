"""What a network costs: closed forms of the widths, and the latency of this machine.

Every cost is a function `(graph, widths=None) -> int`. The widths may be a keep mapping too, and
None is the network as it was traced. Nothing is traced again: a contraction costs the product of
the sizes of its axis spaces, and that product at the kept widths is exactly what a fresh count on
the pruned network gives.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.functions import check_inputs
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import UncountedWarning
from jaxprune.graph import Branches, ChannelGraph, Contraction, check_graph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.parameters import each_contraction as each_contraction
from jaxprune.inspecting.parameters import parameters
from jaxprune.inspecting.routing import active_params as active_params
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep import check
from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Trait

__all__ = [
    "Latency",
    "Uncounted",
    "activation_bytes",
    "active_params",
    "branch_cost",
    "channel_cost",
    "each_contraction",
    "latency",
    "macs",
    "params",
    "uncounted",
    "warn_uncounted",
    "weights",
]

Widths = Mapping[str, int]
# A cost of the network at the widths, which may be a keep mapping too; None is dense.
Cost = Callable[[ChannelGraph, Mapping[str, Any] | None], int]


def macs(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the multiply-accumulates of one call: those of convolutions and matrix products.

    Of a `lax.cond` the dearest branch counts. Trace at batch 1 for the usual figure.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: {group: kept count}, or {group: bool[n]}; absent groups are whole. {branch: False}
        counts the network without a branch (`jp.branches`).

    >>> from jaxprune import trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> macs(graph), macs(graph, {"first": 1})
    (20, 5)
    """
    at, gone = _split(graph, widths)
    return _total(_macs(graph, gone), at)


def activation_bytes(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the bytes that contractions write, elementwise operations apart; as for `macs`."""
    at, gone = _split(graph, widths)
    return _total(_activation_bytes(graph, gone), at)


def params(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the number of parameters; arguments as for `macs`.

    They are the entries of what `inspecting.parameters.parameters` lists: all under `params`, or
    where there is no such collection all that the outputs are made of, but no state.
    """
    at, gone = _split(graph, widths)
    return _total(_params(graph, gone), at)


def weights(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the entries of the kernels, each kernel once; arguments as for `macs`.

    A kernel is a variable that enters a contraction, so biases and scales are left out.
    """
    at, gone = _split(graph, widths)
    return _total(_weights(graph, gone), at)


def channel_cost(
    graph: ChannelGraph, cost: Cost = macs, widths: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Returns {group: cost of one channel}, the saving from the first channel that goes.

    Args:
      graph: what `jaxprune.trace` returned.
      cost: one of this module takes a single pass over the network, another one a call per group.
      widths: the network from which the channel goes, as for `macs`.
    """
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    at = check.widths(graph, widths)
    if cost in _TERMS:
        return dict.fromkeys(graph.groups, 0) | _sum(_TERMS[cost](graph), at).losses
    found = {}
    for name, width in at.items():  # what the last channel costs, the one before it tells
        before, after = (at | {name: n} for n in (max(width, 2), max(width, 2) - 1))
        found[name] = cost(graph, before) - cost(graph, after)
    return found


def branch_cost(graph: ChannelGraph, cost: Cost = macs) -> dict[str, int]:
    """Returns {branch: what the network costs less without it alone}.

    What several branches save does not add up where they share what stands before them; `cost` is
    one of this module.

    >>> from jaxprune import trace
    >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
    >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
    >>> branch_cost(trace(fn, v, np.ones((1, 4)))), macs(trace(fn, v, np.ones((1, 4))))
    ({'+down': 64}, 72)
    """
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    known, at = branches(graph), check.widths(graph)
    plain = all(isinstance(item, Contraction) for item in graph.contractions)
    if cost is params:
        each = dict(zip(parameters(graph), _params(graph), strict=True))
        parts = {name: branch.variables for name, branch in known.items()}
    elif cost in (macs, activation_bytes) and plain:  # of a `cond` the dearest branch counts
        ops = [item.op for item in each_contraction(graph.contractions)]
        each = dict(zip(ops, _TERMS[cost](graph), strict=True))
        parts = {name: without_branches.alone(branch) for name, branch in known.items()}
    else:
        whole = cost(graph, None)
        return {name: whole - cost(graph, {name: False}) for name in known}
    sizes = {key: _total([term], at) for key, term in each.items()}
    return {name: sum(sizes.get(key, 0) for key in keys) for name, keys in parts.items()}


class Uncounted(NamedTuple):
    """An operation that reads numbers and whose multiplications are in no cost."""

    name: str
    place: str


@once
def uncounted(graph: ChannelGraph) -> tuple[Uncounted, ...]:
    """Returns the operations of which nothing is counted, in the order of the program.

    They read an array of floating or complex numbers, or an integer variable. Of those without a
    rule (`print(graph)` names them among what is frozen too), such as a kernel written for a
    device, it is not known whether they multiply; of a Fourier transform, a factorization or a
    triangular solve, how often depends on the algorithm.

    >>> from jaxprune import trace
    >>> graph = trace(lambda v, x: jax.numpy.fft.fft(x) @ v, np.ones((2, 3)), np.ones((1, 2)))
    >>> [item.name for item in uncounted(graph)], macs(graph)
    (['fft'], 6)
    """
    return tuple(
        Uncounted(op.name, op.place)
        for op in every_op(graph.walk)
        if (op.rule is None or Trait.UNCOUNTED in op.traits)
        and any(map(_numbers, op.eqn.invars, op.sources))
    )


def warn_uncounted(graph: ChannelGraph, costs: Iterable[Cost], *, stacklevel: int) -> None:
    """Warns if one of the costs leaves out operations of the graph."""
    check_graph(graph)
    costs = tuple(costs) if isinstance(costs, Iterable) else (costs,)
    for cost in costs:
        check_callable(cost, "cost", "costs=[jp.cost.macs].")
    check_count(stacklevel, "stacklevel", "stacklevel=2, the caller.")
    short = [cost.__name__ for cost in costs if cost in (macs, weights, activation_bytes)]
    if short and (missing := uncounted(graph)):
        names = ", ".join(dict.fromkeys(item.name for item in missing))
        warnings.warn(
            f"{' and '.join(short)} leave out {len(missing)} operations that are not counted "
            f"({names}; the first at {missing[0].place}): the budget is that of the others.\n"
            "Fix: trace(..., rules=jp.RULES | {name: rule}) with a rule that records them, or "
            "keep_params.",
            UncountedWarning,
            stacklevel=stacklevel + 1,
        )


class Latency(NamedTuple):
    """Measured wall time of one call, in seconds."""

    median: float
    spread: float  # distance between the quartiles
    repeats: int
    device: str

    def __str__(self) -> str:
        """The figures in milliseconds."""
        milliseconds = f"{1e3 * self.median:.3f} ms, spread {1e3 * self.spread:.3f} ms"
        return f"{milliseconds} ({self.repeats} calls on {self.device})"


def latency(fn: Callable[..., Any], *args: Any, repeats: int = 30, warmup: int = 3) -> Latency:
    """Returns how long a compiled call `fn(*args)` takes on the present device.

    The arguments are moved to the device first, compilation and the warm-up calls are not timed,
    and every call is waited for.

    Args:
      fn: a function of arrays; it is compiled with `jax.jit`.
      *args: pytrees of arrays.
      repeats: timed calls, at least 1.
      warmup: calls before them, at least 0.

    Raises:
      JaxpruneError: `repeats` or `warmup` is too small.
    """
    check_callable(fn, "latency: fn", "latency(jitted, *args).")
    fix = "latency(fn, *args, repeats=30)."
    repeats = check_count(repeats, "latency: repeats", fix)
    warmup = check_count(warmup, "latency: warmup", fix, least=0)
    check_inputs(args)
    args = jax.device_put(args)
    compiled = jax.jit(fn).lower(*args).compile()
    for _ in range(warmup):
        jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - start)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, high - low, repeats, jax.devices()[0].device_kind)


class _Product(NamedTuple):
    """A term of a cost: a factor times the sizes of spaces."""

    factor: int
    spaces: Sequence[Space]


class _Dearest(NamedTuple):
    """A term of a cost: the largest of several sums of terms."""

    alternatives: Sequence[Sequence["_Product | _Dearest"]]


_Terms = Iterable[_Product | _Dearest]


def _split(
    graph: ChannelGraph, widths: Mapping[str, Any] | None
) -> tuple[dict[str, int], Without | None]:
    """Returns the widths of the groups, and what goes with branches, if any are named."""
    named = isinstance(widths, Mapping) and any(map(check.is_branch, widths))
    if not named or widths is None:
        return check.widths(graph, widths), None
    parts = without_branches.split(graph, widths)
    gone = without_branches.without(graph, parts.branches)
    return check.widths(graph, parts.channels), gone


def _macs(graph: ChannelGraph, gone: Without | None = None) -> _Terms:
    def term(item: Contraction) -> _Product:
        return _Product(without_branches.repeats(item, gone) * item.coefficient, item.spaces)

    return _each(graph.contractions, term)


def _activation_bytes(graph: ChannelGraph, gone: Without | None = None) -> _Terms:
    def term(item: Contraction) -> _Product:
        return _Product(without_branches.repeats(item, gone) * item.itemsize, item.output)

    return _each(graph.contractions, term)


def _params(graph: ChannelGraph, gone: Without | None = None) -> _Terms:
    return [term for path in parameters(graph) for term in _entries(graph, path, gone)]


def _weights(graph: ChannelGraph, gone: Without | None = None) -> _Terms:
    kernels = {path for term in each_contraction(graph.contractions) for path in term.kernels}
    return [term for path in kernels for term in _entries(graph, path, gone)]


def _entries(graph: ChannelGraph, path: str, gone: Without | None) -> Iterator[_Product]:
    """The entries of a variable that stay: all, those of some rows of a stacked one, or none."""
    axes = graph.variables[path].axes
    if gone is None or (path not in gone.variables and path not in gone.rows):
        yield _Product(1, axes)
    elif path in gone.rows:
        yield _Product(int(np.count_nonzero(gone.rows[path])), axes[1:])


def _each(
    items: Iterable[Contraction | Branches], term: Callable[[Contraction], _Product]
) -> list[_Product | _Dearest]:
    return [
        _Dearest([_each(branch, term) for branch in item.alternatives])
        if isinstance(item, Branches)
        else term(item)
        for item in items
    ]


def _numbers(atom: Any, source: Any) -> bool:
    """True for an array of numbers that could be multiplied, not of indices or keys."""
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is None or not jaxpr.shape(atom):
        return False
    if jnp.issubdtype(dtype, jnp.inexact):
        return True
    return jnp.issubdtype(dtype, jnp.integer) and bool(source)


_TERMS: Mapping[Cost, Callable[..., _Terms]] = {
    macs: _macs,
    activation_bytes: _activation_bytes,
    params: _params,
    weights: _weights,
}


def _total(terms: _Terms, at: Widths) -> int:
    total = 0
    for term in terms:
        if isinstance(term, _Dearest):
            total += max((_total(branch, at) for branch in term.alternatives), default=0)
        else:
            volume = term.factor
            for space in term.spaces:
                volume *= ax.count(space, at)
            total += volume
    return total


class _Count(NamedTuple):
    """A number, and by how much each group lowers it when it loses a channel."""

    value: int
    losses: dict[str, int]


def _sum(terms: _Terms, at: Widths) -> _Count:
    """A sum of terms: losses add up."""
    total, losses = 0, {}
    for term in terms:
        if isinstance(term, _Dearest):
            found = _dearest([_sum(branch, at) for branch in term.alternatives])
        else:
            found = _product([_Count(term.factor, {}), *(_size(s, at) for s in term.spaces)])
        total += found.value
        for name, loss in found.losses.items():
            losses[name] = losses.get(name, 0) + loss
    return _Count(total, losses)


def _dearest(branches: Sequence[_Count]) -> _Count:
    """The largest; without a channel another one may be."""
    value = max((branch.value for branch in branches), default=0)
    names = dict.fromkeys(name for branch in branches for name in branch.losses)
    return _Count(
        value,
        {name: value - max(b.value - b.losses.get(name, 0) for b in branches) for name in names},
    )


def _product(factors: Iterable[_Count]) -> _Count:
    """A product: what one factor loses is lost as often as the others count."""
    value, losses = 1, {}
    for size, less in factors:
        after = {n: (value - losses.get(n, 0)) * (size - less.get(n, 0)) for n in losses | less}
        value *= size
        losses = {name: value - left for name, left in after.items()}
    return _Count(value, losses)


def _size(space: Space, at: Widths) -> _Count:
    space = ax.find(space)
    if isinstance(space, ax.Atom):
        size = ax.count(space, at)
        return _Count(size, {} if space.name is None else {space.name: 1})
    if isinstance(space, ax.Prod):
        return _product(_size(item, at) for item in space.factors)
    return _sum([_Product(1, [part]) for part in space.parts], at)
