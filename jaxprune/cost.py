"""What a network costs: closed forms of the widths, and the latency of this machine.

Every cost is a function `(graph, widths=None) -> int`. The widths may be a keep mapping too, and
None is the network as it was traced. Nothing is traced again: a contraction costs the product of
the sizes of its axis spaces, and that product at the kept widths is exactly what a fresh count on
the pruned network gives.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks
from jaxprune._arguments import check_callable
from jaxprune._functions import check_inputs
from jaxprune._numbers import check_count
from jaxprune.axes import Space, count
from jaxprune.batchnorm import batch_norms
from jaxprune.errors import JaxpruneError
from jaxprune.graph import Branches, ChannelGraph, Contraction

Widths = Mapping[str, int]
# A cost of the network at the widths, which may be a keep mapping too; None is dense.
Cost = Callable[[ChannelGraph, Mapping[str, Any] | None], int]


def macs(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the multiply-accumulates of one call: those of convolutions and matrix products.

    Of a `lax.cond` the dearest branch counts. Trace at batch 1 for the usual figure.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: {group: kept count}, or {group: bool[n]}; absent groups are whole.

    >>> from jaxprune import trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> macs(graph), macs(graph, {"first": 1})
    (20, 5)
    """
    at = masks.widths(graph, widths)
    return _total(graph.contractions, lambda term: _macs(term, at))


def activation_bytes(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the bytes that the contractions of one call write; arguments as for `macs`.

    Elementwise operations are left out: a compiler fuses them into their producers.
    """
    at = masks.widths(graph, widths)
    return _total(
        graph.contractions, lambda term: term.repeats * term.itemsize * _volume(term.output, at)
    )


def params(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the number of parameters; arguments as for `macs`.

    They are the entries under `params`, or where there is no such collection of every floating
    leaf that is no running statistic of a BatchNorm.
    """
    at = masks.widths(graph, widths)
    named = [leaf for path, leaf in graph.variables.items() if path.startswith("params/")]
    norms = batch_norms(list(graph.variables)).values()
    statistics = {path for norm in norms for path in (norm.mean, norm.var)}
    floating = [
        variable
        for path, variable in graph.variables.items()
        if jnp.issubdtype(variable.dtype, jnp.floating) and path not in statistics
    ]
    return sum(_volume(variable.axes, at) for variable in named or floating)


def weights(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the entries of the kernels, each kernel once; arguments as for `macs`.

    A kernel is a variable that enters a contraction, so biases and scales are left out.
    """
    at = masks.widths(graph, widths)
    kernels = {path for term in each_contraction(graph.contractions) for path in term.kernels}
    return sum(_volume(graph.variables[path].axes, at) for path in kernels)


def channel_cost(graph: ChannelGraph, cost: Cost = macs) -> dict[str, int]:
    """Returns {group: cost of one channel}, the saving from the first channel that goes."""
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    dense = masks.widths(graph)
    total = cost(graph, dense)
    return {
        name: total - cost(graph, dense | {name: group.size - 1})
        for name, group in graph.groups.items()
    }


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


def _macs(term: Contraction, at: Widths) -> int:
    return term.repeats * term.coefficient * _volume(term.spaces, at)


def _volume(spaces: Iterable[Space], at: Widths) -> int:
    volume = 1
    for space in spaces:
        volume *= count(space, at)
    return volume


def _total(terms: Iterable[Contraction | Branches], price: Callable[[Contraction], int]) -> int:
    total = 0
    for term in terms:
        if isinstance(term, Branches):
            total += max((_total(branch, price) for branch in term.alternatives), default=0)
        else:
            total += price(term)
    return total


def each_contraction(terms: Iterable[Contraction | Branches]) -> Iterator[Contraction]:
    """Yields the contractions of `graph.contractions`, those of every branch of a `cond` too."""
    terms = tuple(terms) if isinstance(terms, Iterable) else (terms,)
    if not all(isinstance(term, Contraction | Branches) for term in terms):
        raise JaxpruneError(
            f"expected the contractions of a graph, got {terms!r:.60}.\nFix: graph.contractions."
        )
    for term in terms:
        if isinstance(term, Branches):
            for branch in term.alternatives:
                yield from each_contraction(branch)
        else:
            yield term
