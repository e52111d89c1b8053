"""Optimal Brain Surgeon for channels: which go and what the readers become, in one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_finite
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.recover.brain_surgeon import Surgeon, remove_cheapest
from jaxprune.recover.fits import Moments
from jaxprune.recover.fitting import Fit, fit_of
from jaxprune.recover.leaves import checked_counts, concrete, replaced
from jaxprune.recover.measuring import Measuring, draw_of
from jaxprune.recover.normal_equations import damped
from jaxprune.recover.readers import Reader, check_read, find_readers, kernels
from jaxprune.stats.batch_calls import call_of

Array = np.ndarray


class Removal(NamedTuple):
    """Which channels stay, and the full variables to be sliced by that.

    keep: {group: bool[n]}. costs: {group: f64[n]}, what a channel cost when it went, or would cost
    next; both [layers, n] of groups whose layers have their own channels. fits: what became of
    every reader.
    """

    keep: dict[str, Array]
    variables: Any
    costs: dict[str, Array]
    fits: tuple[Fit, ...]


def obs(
    graph: ChannelGraph,
    variables: Any,
    widths: Mapping[str, int],
    batches: Iterable[Any],
    *,
    damping: float = 0.01,
    positions: int | None = None,
    key: Any = None,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> Removal:
    """Returns which channels stay at these widths, and full variables that make up for the others.

    With H = X^T X / N + damping * mean(diag(X^T X / N)) I of what a reader with the kernel W reads
    in the whole network, removing the inputs c of a channel costs 1/2 tr(W_c^T ((H^-1)_cc)^-1 W_c),
    the least half mean squared error of its outputs, where damping is 0, and changes the others by
    -(H^-1)_:c ((H^-1)_cc)^-1 W_c. The channel that costs least, summed over its readers, goes;
    H^-1 is downdated, and made anew after 64 removals. Groups follow each other in the order of the
    graph. Sums are of float32 (or float64 where the model is), all else float64 on the host.

    Exact: each step is the optimum of least squares for that channel; the weights at the end are
    those of one solution for all that went. The order is greedy. No bias changes, and no reader is
    told of errors before it: `least_squares` on `keep` does both.

    Args:
      graph: the channel graph, traced in evaluation mode.
      variables: all variables, concrete.
      widths: {group: how many channels stay}; groups that are absent stay whole.
      batches: as for `jp.stats.collect`; one pass.
      damping: relative to the mean square of the inputs; at least 0. Where H is singular, the least
        that its rounding asks for is added, and the fit says so.
      positions: as for `least_squares`.
      key: as for `least_squares`.
      inputs: as for `least_squares`.
      fn: as for `least_squares`.

    Raises:
      KeepError, TreeError: before anything is computed.
      JaxpruneError: no data, numbers that are not finite, or a group none of whose readers has
        weights that can be fitted.

    Source: Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
    Surgeon", NeurIPS 1992; Kurtic et al., "ZipLM", NeurIPS 2023, section 3.1, for structures.
    Deviation: a channel costs what it costs in all its readers.

    >>> import jaxprune as jp, numpy as np
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([[1.0], [3.0]], np.float32)}
    >>> x = np.array([[1.0], [2.0]], np.float32)
    >>> removal = jp.recover.obs(jp.trace(fn, v, x), v, {"a": 1}, [x])
    >>> removal.keep["a"].tolist(), round(float(removal.variables["b"][1, 0]), 1)
    ([False, True], 3.5)
    """
    check_graph(graph)
    counts = checked_counts(graph, widths)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    damping = check_finite(damping, "damping", "damping=0.01.")
    leaves = concrete(graph, variables)
    counts = {name: count for name, count in counts.items() if count < graph.groups[name].size}
    trial = {name: np.ones(graph.groups[name].shape, bool) for name in counts}
    readers, refused = find_readers(graph, trial)
    check_read("recover.obs", graph, counts, readers, refused)
    run, draw = graph.fn if fn is None else fn, draw_of(positions, key)
    measuring = Measuring(graph, readers, call_of(graph, inputs), run, "recover.obs", draw)
    leaves |= {r.path: np.asarray(fetch(leaves[r.path])) for r in readers}
    every = list(range(len(readers)))
    moments = measuring.collect(batches, variables, None, every) if readers else []
    solved = _solvers(readers, moments, leaves, damping, measuring.rounding)
    keep, costs = dict[str, Array](), dict[str, Array]()
    for name, count in counts.items():
        group = graph.groups[name]
        found = [
            remove_cheapest(_surgeons(solved, name, layer), group.size, count)
            for layer in range(group.layers or 1)
        ]
        kept, lost = zip(*found, strict=True)
        keep[name], costs[name] = np.reshape(kept, group.shape), np.reshape(lost, group.shape)
    new, fits = _solved(graph, leaves, keep, solved)
    fits += [Fit(r.groups, r.place, why=r.why) for r in refused]
    return Removal(keep, replaced(variables, new), costs, tuple(fits))


def _surgeons(kernels: Sequence["_Kernel"], group: str, layer: int) -> list[tuple[Surgeon, Array]]:
    """What reads a group in a layer, each with the channels of its inputs."""
    return [
        (surgeon, reader.owner(group)[b])
        for (reader, *_), _, surgeons in kernels
        if group in reader.groups and reader.rows.get(group, layer) == layer
        for b, surgeon in enumerate(surgeons)
    ]


def _solved(
    graph: ChannelGraph, leaves: Any, keep: dict[str, Array], kernels: Sequence["_Kernel"]
) -> tuple[dict[str, Array], list[Fit]]:
    """The kernels without what went, and the fits of their readers."""
    new, fits = dict[str, Array](), []
    final = {(reader.number, reader.at): reader for reader in find_readers(graph, keep)[0]}
    for kernel in kernels:
        for surgeon in kernel.surgeons:
            surgeon.refresh()
        readers = [final[reader.number, reader.at] for reader in kernel.readers]
        path = readers[0].path
        solved = [surgeon.kernel for surgeon in kernel.surgeons]
        leaf: Array = leaves[path]
        new[path] = readers[0].with_kernel(new.get(path, leaf), solved)
        words = ", ".join(dict.fromkeys([s.method for s in kernel.surgeons] + ["no bias"]))
        for reader, moment in zip(readers, kernel.moments, strict=True):
            fits.append(fit_of(reader, moment, reader.blocks(leaf), solved, words))
    return new, fits


class _Kernel(NamedTuple):
    """The readers of one kernel, what they read, and a surgeon of each block."""

    readers: list[Reader]
    moments: list[Moments]
    surgeons: list[Surgeon]


def _solvers(
    readers: Sequence[Reader],
    moments: Sequence[Moments],
    leaves: Any,
    damping: float,
    rounding: float,
) -> list[_Kernel]:
    found = [
        _Kernel([readers[i] for i in same], [moments[i] for i in same], [])
        for same in kernels(readers)
    ]
    for kernel in found:
        leaf = leaves[kernel.readers[0].path]
        for b, block in enumerate(kernel.readers[0].blocks(leaf)):
            rows = sum(moment.rows[b] for moment in kernel.moments)
            both = [
                moment.xx[b] + moment.rows[b] * np.outer(moment.x[b], moment.x[b])
                for moment in kernel.moments
            ]
            hessian = damped(np.sum(both, axis=0) / rows, damping)
            kernel.surgeons.append(Surgeon(hessian, block.kernel, block.written, rounding))
    return found
