"""Discrimination-aware channel pruning: channels come in one by one, by their gradient."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, check_examples, check_names
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_count, check_finite, check_positive
from jaxprune.cutting.transforms import mask
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.recover.auxiliary_heads import WHERE, Head, Loss, Watch, train_heads
from jaxprune.recover.leaves import checked_counts, concrete, replaced
from jaxprune.recover.readers import Reader, Refused, check_read, find_readers
from jaxprune.stats.batch_calls import call_of
from jaxprune.stats.passes import loss_value

Array = Any


class Discriminating(NamedTuple):
    """Which channels stay, and the full variables to be sliced by that.

    keep: {group: bool[n]}. chosen: {group: the channels in the order in which they came in}.
    heads: {point: its classifier}, trained on the whole network.
    """

    keep: dict[str, np.ndarray]
    variables: Any
    chosen: dict[str, tuple[int, ...]]
    heads: dict[str, Head]


def dcp(
    graph: ChannelGraph,
    variables: Any,
    widths: Mapping[str, int],
    batches: Iterable[Any],
    *,
    loss: Loss,
    points: Sequence[str] = (),
    weight: float = 1.0,
    rate: float = 0.01,
    head_rate: float = 0.1,
    head_passes: int = 5,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> Discriminating:
    """Returns which channels stay at these widths, chosen by what tells the classes apart.

    First every point gets a classifier of its own (standardized means over positions, then one
    linear layer), trained by SGD from zero while the network stays as it is. Then group by group,
    in the order of the graph, all channels of a group are taken from its readers, and come back one
    at a time: the one with the largest

        Σ_readers Σ_o (Σ_taps (dJ/dw_co)^2)^(1/2),  J = 1/2 mean |y - y'|^2 + weight * loss

    over all batches, followed by one pass of SGD over them for the weights that read the channels
    chosen so far. y is what the readers write in the whole network and y' what they write now, by
    inputs from the network with all groups before pruned; the loss is that of the first point
    behind the readers, or of the network's own outputs where none is behind them. Errors of several
    readers add up. Twice the batches are passed for every channel that stays.

    Args:
      graph: the channel graph, traced in evaluation mode.
      variables: all variables, concrete.
      widths: {group: how many channels stay}; groups that are absent stay whole.
      batches: as for `jp.stats.collect`: of a tuple the first are the inputs, the rest is for the
        loss. They are held in a list.
      loss: `loss(outputs, batch) -> f[]`, of outputs f32[examples, classes]: of the network, and of
        the classifiers, alike.
      points: the groups whose last reading is classified. By default there is none, and the loss
        is that of the network.
      weight: of the loss, beside the error of what the readers write.
      rate: of SGD for the kernels, without momentum.
      head_rate: of SGD for the classifiers.
      head_passes: how often they see the batches.
      inputs: as for `least_squares`.
      fn: as for `least_squares`.

    Returns:
      The variables, of which the kernels of readers differ at kept inputs.

    Raises:
      KeepError, TreeError: before anything is computed.
      JaxpruneError: no data, a group none of whose readers has weights that can be changed, a point
        that nothing reads outside of a loop, outputs that are not [examples, classes] where there
        are points, a loss that is not a number, or gradients that are not finite (group and channel
        are named).

    Source: Zhuang et al., "Discrimination-aware Channel Pruning for Deep Neural Networks", NeurIPS
    2018, algorithms 1 and 2, equations 6 to 9. Deviations: the network itself is not fine-tuned
    with the classifiers, which stand behind the activation rather than behind a BatchNorm and a
    ReLU of their own; a group is pruned where it is read; channels come in until the width is
    reached, without the stop on a small change of J.

    >>> import jaxprune as jp
    >>> f = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.eye(3, dtype=np.float32), "b": np.array([[0.1], [3.0], [1.0]], np.float32)}
    >>> x = np.eye(3, dtype=np.float32)
    >>> error = lambda outputs, batch: ((outputs - batch @ v["b"]) ** 2).mean()
    >>> dcp(jp.trace(f, v, x), v, {"a": 2}, [x], loss=error).chosen
    {'a': (1, 2)}
    """
    check_graph(graph)
    counts = checked_counts(graph, widths)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    check_callable(loss, "loss", "loss=lambda outputs, batch: ...")
    weight = check_finite(weight, "weight", "weight=1.0.")
    rates = [
        check_positive(r, n, f"{n}=0.1.") for n, r in (("rate", rate), ("head_rate", head_rate))
    ]
    passes = check_count(head_passes, "head_passes", "head_passes=5.")
    leaves = concrete(graph, variables)
    given = list(check_examples(batches, WHERE))
    if not given:
        raise JaxpruneError(f"{WHERE}: no batches.\nFix: pass at least one batch of data.")
    counts = {name: count for name, count in counts.items() if count < graph.groups[name].size}
    everything = {name: np.ones(graph.groups[name].size, bool) for name in counts}
    found, refused = find_readers(graph, everything)
    readers = [reader for reader in found if not reader.at]
    refused += [Refused(r.groups, r.place, "it is inside of a scan") for r in found if r.at]
    check_read(WHERE, graph, counts, readers, refused)
    named = check_names(points, "points", JaxpruneError)
    watch = Watch(graph, named, call_of(graph, inputs), graph.fn if fn is None else fn)
    heads = train_heads(watch, variables, given, loss, rates[1], passes)
    keep, chosen, now = dict[str, np.ndarray](), dict[str, tuple[int, ...]](), variables
    for name, count in counts.items():
        by_path = {reader.path: reader for reader in readers if name in reader.groups}
        left = dict(
            zip(graph.variables, jax.tree.leaves(mask(graph, _ones(now), keep)), strict=True)
        )
        allowed = {path: fetch(left[path]) for path in by_path}
        used = [reader for reader in readers if reader.path in by_path]
        stage = _Stage(graph, watch, name, used, heads, loss, weight, rates[0], allowed)
        start = {path: jnp.asarray(leaves[path]) * allowed[path] for path in by_path}
        pruned = mask(graph, now, keep)
        order, kernels = stage.grown(start, pruned, variables, given, count)
        chosen[name], keep[name] = order, np.isin(np.arange(graph.groups[name].size), order)
        leaves |= {path: stage.joined(path, leaves[path], kernels[path], order) for path in by_path}
        now = replaced(variables, {reader.path: leaves[reader.path] for reader in readers})
    return Discriminating(keep, now, chosen, heads)


class _Stage:
    """The channels of one group, which come back into its readers."""

    def __init__(
        self,
        graph: ChannelGraph,
        watch: Watch,
        name: str,
        readers: Sequence[Reader],
        heads: Mapping[str, Head],
        loss: Loss,
        weight: float,
        rate: float,
        allowed: Mapping[str, np.ndarray],
    ):
        self.name, self.readers, self.watch = name, readers, watch
        self.size = graph.groups[name].size
        self.loss, self.weight, self.rate = loss, weight, rate
        first = min(reader.number for reader in readers if name in reader.groups)
        self.point = next((p for p, depth in watch.depths.items() if depth > first), None)
        self.heads, self.allowed = heads, allowed
        self.owners = {r.path: _owners(r, name, graph.variables[r.path].shape) for r in readers}
        self.step = jax.jit(self._step)

    def grown(
        self, kernels: dict[str, Array], now: Any, dense: Any, batches: Sequence[Any], count: int
    ) -> tuple[tuple[int, ...], dict[str, Array]]:
        """Returns the channels in the order in which they came in, and the trained kernels."""
        order: list[int] = []
        while len(order) < count:
            there = np.isin(np.arange(self.size), order)
            slopes = [self.step(kernels, now, dense, batch, there)[1] for batch in batches]
            norms = self._norms(fetch(jax.tree.map(lambda *each: sum(each), *slopes)))
            if not np.isfinite(norms).all():
                raise JaxpruneError(
                    f"{WHERE}: gradients of group {self.name!r} are not finite, with "
                    f"{len(order)} channels in.\nFix: a smaller rate; look for NaN in the batches."
                )
            order.append(int(np.where(there, -1, norms).argmax()))
            there = np.isin(np.arange(self.size), order)
            for batch in batches:
                kernels = self.step(kernels, now, dense, batch, there)[0]
        return tuple(order), kernels

    def joined(self, path: str, old: Any, new: Any, order: Sequence[int]) -> np.ndarray:
        """Returns a kernel with what was trained, and at other channels as it was."""
        theirs = np.isin(self.owners[path], order) & self.allowed[path]
        return np.where(theirs, *fetch((new, old)))

    def _step(
        self, kernels: dict[str, Array], now: Any, dense: Any, batch: Any, there: Array
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The kernels after a step of SGD, and the gradients by all of their weights."""
        known = {p: (owner < 0) | jnp.take(there, owner) for p, owner in self.owners.items()}
        targets = self.watch(dense, batch, self.readers).written

        def objective(kernels: dict[str, Array]) -> Array:
            seen = self.watch(_with(self.watch.graph, now, kernels), batch, self.readers)
            pairs = zip(seen.written, targets, strict=True)
            error = sum(jnp.square(ours - theirs).mean() for ours, theirs in pairs) / 2
            outputs = seen.outputs
            if self.point is not None:
                outputs = self.heads[self.point](seen.pooled[self.point])
            return error + self.weight * loss_value(self.loss(outputs, batch))

        slopes = jax.grad(objective)({p: jnp.where(known[p], w, 0) for p, w in kernels.items()})
        slopes = {p: jnp.where(self.allowed[p], slope, 0) for p, slope in slopes.items()}
        moved = {
            p: w - self.rate * jnp.where(known[p] & (self.owners[p] >= 0), slopes[p], 0)
            for p, w in kernels.items()
        }
        return moved, slopes

    def _norms(self, slopes: Mapping[str, np.ndarray]) -> np.ndarray:
        """f64[n]: the norms over the taps of each output, summed over outputs and readers."""
        total = np.zeros(self.size)
        for reader in {reader.path: reader for reader in self.readers}.values():
            squares = np.abs(slopes[reader.path].astype(np.float64)).reshape(-1)[reader.index] ** 2
            for square, owner in zip(squares, reader.owner(self.name), strict=True):
                sums = np.zeros((self.size + 1, square.shape[1]))
                np.add.at(sums, owner, square)  # nobody's, -1, is the last row
                total += np.sqrt(sums[:-1]).sum(1)
        return total


def _owners(reader: Reader, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """int[...] in the shape of a kernel: whose channel an entry reads, -1 for nobody's."""
    owners = np.full(int(np.prod(shape)), -1)
    owners[reader.index] = reader.owner(name)[..., None]
    return owners.reshape(shape)


def _ones(tree: Any) -> Any:
    """True in the place of every number."""
    return jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), tree)


def _with(graph: ChannelGraph, variables: Any, leaves: Mapping[str, Array]) -> Any:
    """The tree of the variables with others at some paths."""
    old = jax.tree.leaves(variables)
    new = [leaves.get(path, leaf) for path, leaf in zip(graph.variables, old, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(variables), new)
