"""Discrimination-aware channel pruning: channels come in one by one, by their gradient."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, check_examples, check_names
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_count, check_finite, check_positive
from jaxprune.arguments.paths import flatten
from jaxprune.arguments.reduction import is_near
from jaxprune.cutting.transforms import mask
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.keep.check import Keep
from jaxprune.recover.auxiliary_heads import WHERE, Head, Loss, Seen, Watch, train_heads
from jaxprune.recover.layers import At
from jaxprune.recover.leaves import checked_counts, concrete, replaced
from jaxprune.recover.readers import Reader, check_read, find_readers, kernels
from jaxprune.stats.batch_calls import call_of
from jaxprune.stats.passes import loss_value

Array = Any


class Discriminating(NamedTuple):
    """Which channels stay, and the full variables to be sliced by that.

    keep: {group: bool[n]}. chosen: {group: the channels in the order in which they came in}; both
    of every layer of a stack whose layers have their own channels. heads: {point: its classifier},
    trained on the whole network.
    """

    keep: dict[str, np.ndarray]
    variables: Any
    chosen: dict[str, tuple[Any, ...]]
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
    readers add up. Twice the batches are passed for every channel that stays. In a scan over
    stacked layers each layer has readers of its own, and channels where the group has, as if the
    layers stood one after the other; what readers write of a batch is held for all layers.

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
        that nothing reads, or a loop last, outputs that are not [examples, classes] where there are
        points, a loss that is not a number, or gradients that are not finite (group and channel are
        named).

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
    everything = {name: np.ones(graph.groups[name].shape, bool) for name in counts}
    readers, refused = find_readers(graph, everything)
    check_read(WHERE, graph, counts, readers, refused)
    named = check_names(points, "points", JaxpruneError)
    watch = Watch(graph, named, call_of(graph, inputs), graph.fn if fn is None else fn)
    heads = train_heads(watch, variables, given, loss, rates[1], passes)
    keep, chosen, now = everything, dict[str, Any](), variables
    masked = jax.jit(lambda variables, keep: mask(graph, variables, keep))
    for name, count in counts.items():
        stage = _Stage(graph, watch, name, readers, heads, loss, weight, rates[0])
        orders = []
        for layer in range(graph.groups[name].layers or 1):
            where = stage.where(layer)
            pruned = masked(now, keep)
            start = {p: leaf for p, leaf in flatten(pruned)[0].items() if p in where.owners}
            order, new = stage.grown(start, pruned, variables, given, count, where, keep)
            old = {path: leaves[path] for path in new}
            there = np.isin(np.arange(stage.size), order)
            leaves |= stage.joined(old, new, there, where, keep)
            kept = keep[name].reshape(-1, stage.size).copy()
            kept[layer] = there
            keep = keep | {name: kept.reshape(keep[name].shape)}
            now = replaced(now, {path: leaves[path] for path in new})
            orders.append(order)
        chosen[name] = tuple(orders) if graph.groups[name].layers else orders[0]
    return Discriminating(keep, now, chosen, heads)


class _Where(NamedTuple):
    """The weights that read the channels of a group in one layer; programs are for all layers.

    owners: {path: int[...] in the shape of a variable}, whose channel an entry reads, or -1.
    kernels: {path: [(int[blocks, K, O], its entries, int[blocks, K], whose channel an input is)]}.
    at: {number of a contraction: the layers in which it reads them, or shares their kernels}.
    """

    owners: dict[str, Array]
    kernels: dict[str, list[tuple[Array, Array]]]
    at: dict[int, list[At]]


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
    ):
        self.graph, self.name, self.readers, self.watch = graph, name, readers, watch
        self.size = graph.groups[name].size
        self.loss, self.weight, self.rate = loss, weight, rate
        first = min(reader.number for reader in readers if name in reader.groups)
        self.point = next((p for p, depth in watch.depths.items() if depth > first), None)
        self.heads = heads
        self.step = jax.jit(self._step)
        self.norms = jax.jit(self._norms)

    def where(self, layer: int) -> _Where:
        """Returns what reads the channels of a layer."""
        owners, read = dict[str, Array](), dict[str, Any]()
        at = dict[int, list[At]]()
        for same in kernels(self.readers):
            theirs = [self.readers[i] for i in same]
            ours = [
                reader
                for reader in theirs
                if self.name in reader.groups and reader.rows.get(self.name, layer) == layer
            ]
            if not ours:
                continue
            index, owner, path = ours[0].index, ours[0].owner(self.name), ours[0].path
            flat = owners.setdefault(path, np.full(self.graph.variables[path].shape, -1))
            flat.reshape(-1)[index] = owner[..., None]
            read.setdefault(path, []).append((index, owner))
            for reader in theirs:
                at.setdefault(reader.number, []).append(reader.at)
        return _Where(owners, read, at)

    def grown(
        self,
        kernels: dict[str, Array],
        now: Any,
        dense: Any,
        batches: Sequence[Any],
        count: int,
        where: _Where,
        keep: Keep,
    ) -> tuple[tuple[int, ...], dict[str, Array]]:
        """Returns the channels in the order in which they came in, and the trained kernels."""
        order: list[int] = []
        while len(order) < count:
            there = np.isin(np.arange(self.size), order)
            total = None
            for batch in batches:
                slopes = self.step(kernels, now, dense, batch, there, where, keep)[1]
                total = slopes if total is None else jax.tree.map(jnp.add, total, slopes)
            norms = fetch(self.norms(total, where))
            if not np.isfinite(norms).all():
                raise JaxpruneError(
                    f"{WHERE}: gradients of group {self.name!r} are not finite, with "
                    f"{len(order)} channels in.\nFix: a smaller rate; look for NaN in the batches."
                )
            order.append(int(np.where(there, -1, norms).argmax()))
            there = np.isin(np.arange(self.size), order)
            for batch in batches:
                kernels = self.step(kernels, now, dense, batch, there, where, keep)[0]
        return tuple(order), kernels

    def _step(
        self,
        kernels: dict[str, Array],
        now: Any,
        dense: Any,
        batch: Any,
        there: Array,
        where: _Where,
        keep: Keep,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The kernels after a step of SGD, and the gradients by all of their weights."""
        known = {p: (owner < 0) | jnp.take(there, owner) for p, owner in where.owners.items()}
        allowed = self._allowed(keep, kernels)
        targets = self._written(self.watch(dense, batch, self.readers), where)

        def objective(kernels: dict[str, Array]) -> Array:
            seen = self.watch(_with(self.watch.graph, now, kernels), batch, self.readers)
            pairs = zip(self._written(seen, where), targets, strict=True)
            error = sum(jnp.square(ours - theirs).mean() for ours, theirs in pairs) / 2
            outputs = seen.outputs
            if self.point is not None:
                outputs = self.heads[self.point](seen.pooled[self.point])
            return error + self.weight * loss_value(self.loss(outputs, batch))

        slopes = jax.grad(objective)({p: jnp.where(known[p], w, 0) for p, w in kernels.items()})
        slopes = {p: jnp.where(allowed[p], slope, 0) for p, slope in slopes.items()}
        moved = {
            p: w - self.rate * jnp.where(known[p] & (where.owners[p] >= 0), slopes[p], 0)
            for p, w in kernels.items()
        }
        return moved, slopes

    def _written(self, seen: Seen, where: _Where) -> list[Array]:
        return [seen.written[number][at] for number, each in where.at.items() for at in each]

    def joined(
        self, old: dict[str, Any], new: dict[str, Any], there: Array, where: _Where, keep: Keep
    ) -> dict[str, Any]:
        """Returns the kernels with what was trained, and at other channels as they were."""

        def theirs(old: Any, there: Array, where: _Where, keep: Keep) -> dict[str, Array]:
            allowed = self._allowed(keep, old)
            return {
                p: (owner >= 0) & jnp.take(there, owner) & allowed[p]
                for p, owner in where.owners.items()
            }

        def both(old: Any, new: Any, *given: Any) -> dict[str, Array]:
            return {p: jnp.where(own, new[p], old[p]) for p, own in theirs(old, *given).items()}

        if not all(map(is_near, old.values())):
            return jax.jit(both)(old, new, there, where, keep)
        found = fetch(jax.jit(theirs)(old, there, where, keep))  # 64 bits of NumPy stay
        return {p: np.where(own, fetch(new[p]), old[p]) for p, own in found.items()}

    def _allowed(self, keep: Keep, like: Any) -> dict[str, Array]:
        """{path: where a variable has entries that no pruned channel owns}, in a program."""
        ones = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), like)
        return flatten(mask(self.graph, ones, keep))[0]

    def _norms(self, slopes: Mapping[str, Array], where: _Where) -> Array:
        """f32[n]: the norms over the taps of each output, summed over outputs and readers."""
        total = jnp.zeros(self.size)
        for path, read in where.kernels.items():
            for index, owner in read:
                squares = jnp.abs(slopes[path]).reshape(-1)[index] ** 2
                for square, channel in zip(squares, owner, strict=True):
                    sums = jax.ops.segment_sum(square, channel + 1, self.size + 1)[1:]
                    total += jnp.sqrt(sums).sum(1)  # what is nobody's, -1, is the first row
        return total


def _with(graph: ChannelGraph, variables: Any, leaves: Mapping[str, Array]) -> Any:
    """The tree of the variables with others at some paths."""
    old = jax.tree.leaves(variables)
    new = [leaves.get(path, leaf) for path, leaf in zip(graph.variables, old, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(variables), new)
