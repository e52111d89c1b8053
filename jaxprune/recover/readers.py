"""The contractions that read pruned groups, and where their weights stand in the variables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from jaxprune.recover.shifts import pruned_along
from jaxprune.recover.views import View, Views
from jaxprune.stats.readings import Reading, in_blocks, in_columns, owners

Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One contraction that sums over pruned groups.

    Attributes:
      number: which contraction of the program that sums over groups it is.
      groups: the pruned groups that it sums over.
      place: its module path, or file and line.
      reading: the operation and the activation among its operands, without values.
      sites: where it sums over groups.
      path: of the variable that is its kernel. index: int[blocks, K, O], which entries of it.
      kept: bool[blocks, K]; written: bool[blocks, O]: the inputs and outputs that stay.
      channels: int[blocks, K]; inputs of one number are of one channel.
      biased: whether a bias, or a running mean, can take a constant that it lacks.
    """

    number: int
    groups: tuple[str, ...]
    place: str
    reading: Reading
    sites: tuple[Site, ...]
    path: str
    index: Array
    kept: Array
    written: Array
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
        """Returns what is to be fitted, given its variable, f64."""
        kernel = leaf.reshape(-1)[self.index]
        return [
            Block(*parts)
            for parts in zip(kernel, self.kept, self.written, self.channels, strict=True)
        ]

    def with_kernel(self, leaf: Array, kernels: Sequence[Array]) -> Array:
        """Returns the variable with the weights of kept inputs from f64[K, O] of each block."""
        flat = leaf.reshape(-1).copy()
        new = np.stack(kernels)
        where = np.broadcast_to(self.kept[..., None], self.index.shape)
        flat[self.index[where]] = new[where]
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
    readers, refused = [], []
    for number, (op, sites) in enumerate(contractions(graph)):
        groups = tuple(name for name in keep if any(name in site.groups for site in sites))
        if not groups:
            continue
        view = _view(op, sites[0], views)
        if isinstance(view, str):
            refused.append(Refused(groups, op.place, view))
        else:
            readers.append(_reader(number, groups, op, sites, view, keep))
    tied = dict(_tied(readers, views.uses))
    refused += [Refused(r.groups, r.place, tied[r.path]) for r in readers if r.path in tied]
    return [reader for reader in readers if reader.path not in tied], refused


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
        if graph.groups[name].layers is not None:
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


def _view(op: Op, site: Site, views: Views) -> View | str:
    """The variable that is the kernel of a contraction, or why there is none."""
    inside = [other for other in op.around if other.form in UNTAPPED or other.form is Form.SCAN]
    if inside:
        return f"it is inside of a {inside[0].name}, whose steps or branches share their weights"
    if "ragged_dot_dimension_numbers" in op.params or op.params.get("batch_group_count", 1) > 1:
        return "its rows are divided into groups, each with a kernel of its own"
    if op.sources[1 - site.operand] is None:
        return "it multiplies two activations, so it has no weights"
    view = views.operands.get(id(op), [None, None])[1 - site.operand]
    if view is None or (not contraction.is_product(op) and site.operand):
        return "its kernel is computed from the variables, so it stands in none of them as it is"
    if op.sources[site.operand]:
        return "what it reads depends on no input"
    read = op.eqn.invars[site.operand].aval.dtype
    if not jnp.issubdtype(read, jnp.floating):
        return f"it reads {read}, not real numbers"
    return view


def _reader(
    number: int, groups: tuple[str, ...], op: Op, sites: Sequence[Site], view: View, keep: Keep
) -> Reader:
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
        groups=groups,
        place=op.place,
        reading=reading,
        sites=tuple(sites),
        path=view.path,
        index=np.asarray(in_blocks(reading, jnp.asarray(view.order))),
        kept=~in_columns(reading, lost),
        written=np.logical_not(np.asarray(np.any(outputs, axis=1))),
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


def _tied(readers: Sequence[Reader], uses: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yields {path of a kernel: why it cannot change} where more than its readers depend on it."""
    by_path: dict[str, list[Reader]] = {}
    for reader in readers:
        by_path.setdefault(reader.path, []).append(reader)
    for path, same in by_path.items():
        if uses[path] > len(same):
            yield path, f"{path} is read elsewhere too, which a new kernel would change"
        elif any(
            not np.array_equal(a, b)
            for other in same[1:]
            for a, b in ((same[0].index, other.index), (same[0].kept, other.kept))
        ):
            yield path, f"{path} is read in several ways, of which each asks for other weights"
