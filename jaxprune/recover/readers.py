"""The contractions that read pruned groups, and where their weights stand in the variables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.errors import JaxpruneError
from jaxprune.gates.sites import UNTAPPED, Site, find_sites
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules import contraction
from jaxprune.program.traits import Form
from jaxprune.recover.fits import Block
from jaxprune.recover.layers import At, at_layer, stack_of
from jaxprune.recover.shifts import pruned_along
from jaxprune.recover.views import Uses, View, Views
from jaxprune.stats.readings import Reading, in_blocks, in_columns, owners

Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One contraction that sums over pruned groups.

    Attributes:
      number: which contraction of the program that sums over groups it is.
      at: in which layer of each scan around it; of several layers each is a reader.
      rows: {group: its layer} of groups whose layers have their own channels.
      groups: the pruned groups that it sums over.
      place: its module path, or file and line, and the layer.
      reading: the operation and the activation among its operands, without values.
      sites: where it sums over groups.
      path: of the variable that is its kernel. index: int[blocks, K, O], which entries of it.
      kept: bool[blocks, K]; written: bool[blocks, O]: the inputs and outputs that stay.
      lost: bool[...] that broadcasts to what it reads: what goes.
      channels: int[blocks, K]; inputs of one number are of one channel.
      biased: whether a bias, or a running mean, can take a constant that it lacks.
    """

    number: int
    at: At
    rows: Mapping[str, int]
    groups: tuple[str, ...]
    place: str
    reading: Reading
    sites: tuple[Site, ...]
    path: str
    index: Array
    kept: Array
    written: Array
    lost: Array
    channels: Array
    biased: bool = False

    def owner(self, group: str) -> Array:
        """Returns int[blocks, K]: which channel of a group an input is of, or -1."""
        site = next(site for site in self.sites if group in site.groups)
        return owners(replace(self.reading, site=site, group=group))

    def with_results(self, result: Any) -> Reading:
        """Returns the reading of an array in the shape of what it writes."""
        return replace(self.reading, results=(result,))

    def blocks(self, leaf: Array) -> list[Block]:
        """Returns what is to be fitted, given its variable."""
        kernel = leaf.reshape(-1)[self.index].astype(np.float64)
        return [
            Block(*parts)
            for parts in zip(kernel, self.kept, self.written, self.channels, strict=True)
        ]

    def with_kernel(self, leaf: Array, kernels: Sequence[Array]) -> Array:
        """Returns the variable with the weights of kept inputs from f64[K, O] of each block."""
        flat = leaf.reshape(-1).copy()
        new = np.stack(kernels)
        where = np.broadcast_to(self.kept[..., None], self.index.shape)
        flat[self.index[where]] = new[where].astype(leaf.dtype)
        return flat.reshape(leaf.shape)


class Refused(NamedTuple):
    """A contraction whose weights stay as they are, and why."""

    groups: tuple[str, ...]
    place: str
    why: str


def contractions(graph: ChannelGraph) -> list[tuple[Op, list[Site]]]:
    """Returns the operations that sum over groups, in the order of the program."""
    by_op: dict[int, tuple[Op, list[Site]]] = {}
    for site in find_sites(graph.walk):
        by_op.setdefault(id(site.op), (site.op, []))[1].append(site)
    return list(by_op.values())


def find_readers(graph: ChannelGraph, keep: Keep) -> tuple[list[Reader], list[Refused]]:
    """Returns the readers of the groups of `keep`, and what is none of them."""
    views = Views(graph)
    readers, refused = dict[tuple[int, At], Reader](), []
    visits = dict[int, list[At]]()
    for number, at in views.operands:
        visits.setdefault(number, []).append(at)
    for number, (op, sites) in enumerate(contractions(graph)):
        groups = tuple(name for name in keep if any(name in site.groups for site in sites))
        if not groups:
            continue
        for at in visits.get(id(op), [()]):
            view = _view(op, sites[0], at, views)
            if isinstance(view, str):
                refused.append(Refused(groups, op.place, view))
            else:
                readers[id(op), at] = _reader(graph, number, at, groups, sites, view, keep)
    in_order = [readers[key] for key in views.operands if key in readers]
    tied = _tied(in_order, views.uses)
    refused += [Refused(in_order[i].groups, in_order[i].place, why) for i, why in tied.items()]
    left = [reader for i, reader in enumerate(in_order) if i not in tied]
    return left, list(dict.fromkeys(refused))


def kernels(readers: Sequence[Reader]) -> list[list[int]]:
    """Returns the places in `readers` of those that read the same kernel, kernel by kernel.

    Kernels may be parts of one variable, such as of stacked layers.
    """
    same: dict[tuple[str, int], list[int]] = {}
    for i, reader in enumerate(readers):
        same.setdefault((reader.path, int(reader.index.min())), []).append(i)
    return list(same.values())


def check_read(
    where: str,
    graph: ChannelGraph,
    names: Iterable[str],
    readers: Sequence[Reader],
    refused: Sequence[Refused],
) -> None:
    """Raises JaxpruneError for groups none of whose readers has weights that can be changed."""
    read = {name for reader in readers for name in reader.groups}
    failures = []
    for name in names:
        together = any(name in r.groups and name not in r.rows for r in readers)
        if graph.groups[name].layers is not None and together:
            failures.append(f"group {name!r}: every layer of a stack has channels of its own")
        elif name not in read:
            why = next((other.why for other in refused if name in other.groups), "nothing reads it")
            failures.append(f"group {name!r}: {why}")
    if failures:
        raise JaxpruneError(
            "\n".join([f"{where}: no reader of these groups can be fitted:", *failures])
            + "\nFix: leave them out of widths."
        )


def on_result(reader: Reader, values: Array) -> Array:
    """Returns what broadcasts to what a reader writes, of a number of each output, [blocks, O]."""
    op, operand = _placed(reader.reading)
    shape = op.out_shapes[0]
    made = contraction.free(op, 1 - operand)
    axes = {*range(len(contraction.batches(op))), *made}
    return values.reshape([n if i in axes else 1 for i, n in enumerate(shape)])


def _placed(reading: Reading) -> tuple[Op, int]:
    assert reading.op is not None
    assert reading.site is not None
    return reading.op, reading.site.operand


def _view(op: Op, site: Site, at: At, views: Views) -> View | str:
    """The variable that is the kernel of a contraction, or why there is none."""
    closed = UNTAPPED | {Form.SCAN: "whose steps share their weights"}
    for other in op.around:
        if other.form in closed and id(other) not in views.followed:
            return f"it is inside of a {other.name} at {other.place}, {closed[other.form]}"
    if "ragged_dot_dimension_numbers" in op.params or op.params.get("batch_group_count", 1) > 1:
        return "its rows are divided into groups, each with a kernel of its own"
    if op.sources[1 - site.operand] is None:
        return "it multiplies two activations, so it has no weights"
    view = views.operands.get((id(op), at), [None, None])[1 - site.operand]
    if view is None or (not contraction.is_product(op) and site.operand):
        return "its kernel is computed from the variables, so it stands in none of them as it is"
    if op.sources[site.operand]:
        return "what it reads depends on no input"
    read = op.eqn.invars[site.operand].aval.dtype
    if not jnp.issubdtype(read, jnp.floating):
        return f"it reads {read}, not real numbers"
    return view


def _reader(
    graph: ChannelGraph,
    number: int,
    at: At,
    groups: tuple[str, ...],
    sites: Sequence[Site],
    view: View,
    keep: Keep,
) -> Reader:
    op = sites[0].op
    rows = dict[str, int]()
    for scan, layer in zip(op.scans, at, strict=True):
        keep = at_layer(graph, keep, scan, layer)
        rows |= {name: layer for name in groups if stack_of(graph, name) is scan}
    reading = Reading(channels=None, group=groups[0], site=sites[0], op=op)
    operand = sites[0].operand
    read, kernel = op.ins[operand], op.ins[1 - operand]
    lost = np.zeros([read[i].size if i == sites[0].axis else 1 for i in range(len(read))], bool)
    for site in sites:
        masks = {name: keep[name] for name in groups if name in site.groups}
        lost = lost | pruned_along(read, site.axis, masks)
    summed = {pair[1 - operand] for pair in contraction.pairs(op)}
    gone = np.zeros([space.size for space in kernel], bool)
    for axis in set(range(len(kernel))) - summed:
        gone = gone | pruned_along(kernel, axis, keep)
    outputs = np.asarray(in_blocks(reading, jnp.asarray(gone)))
    return Reader(
        number=number,
        at=at,
        rows=rows,
        groups=groups,
        place=", layer ".join([op.place, *map(str, at)]),
        reading=reading,
        sites=tuple(sites),
        path=view.path,
        index=np.asarray(in_blocks(reading, jnp.asarray(view.order))),
        kept=~in_columns(reading, lost),
        written=np.logical_not(np.asarray(np.any(outputs, axis=1))),
        lost=lost,
        channels=_channels(reading, sites),
    )


def _channels(reading: Reading, sites: Sequence[Site]) -> Array:
    """int[blocks, K]: inputs of the same channel of every group have the same number."""
    owner = [
        owners(replace(reading, site=site, group=name))
        for site in sites
        for name in sorted(site.groups)
    ]
    blocks, size = owner[0].shape
    nobody = np.all([column < 0 for column in owner], axis=0)
    owner.append(np.where(nobody, np.arange(blocks * size).reshape(blocks, size), -1))
    rows = np.stack(owner, axis=-1).reshape(blocks * size, -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(blocks, size)


def _tied(readers: Sequence[Reader], uses: Uses) -> dict[int, str]:
    """{place in `readers`: why its kernel cannot change}, where others depend on it too."""
    tied: dict[int, str] = {}
    ours: dict[str, Array] = {}
    for reader in readers:
        ours.setdefault(reader.path, np.zeros(uses[reader.path].size, int))[reader.index] += 1
    for numbers in kernels(readers):
        same = [readers[i] for i in numbers]
        path, index = same[0].path, same[0].index
        read = ours[path][index]
        if np.any(uses[path].reshape(-1)[index] > read):
            why = f"{path} is read elsewhere too, which a new kernel would change"
        elif np.any(read > len(same)) or not all(
            np.array_equal(a, b)
            for other in same[1:]
            for a, b in ((index, other.index), (same[0].kept, other.kept))
        ):
            why = f"{path} is read in several ways, of which each asks for other weights"
        else:
            continue
        tied |= dict.fromkeys(numbers, why)
    return tied
