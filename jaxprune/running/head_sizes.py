"""Attention whose code has one head size, for queries and keys as for values.

`jax.nn.dot_product_attention` asks for it, and so does code with one `head_dim`. Keeps of other
counts are then refused wherever the code happens to notice; here it is found out whether this is
why, by trying the same with equal counts.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Atom, Space

T = TypeVar("T")


class _Sizes(NamedTuple):
    """The sizes of an attention: that of queries and keys, and that of values."""

    query: Space
    value: Space
    of_values: str  # the group

    @property
    def of_queries(self) -> str | None:
        """The group of the queries, None where they are of several, or cannot be pruned."""
        return self.query.name if isinstance(self.query, Atom) else None


def or_why(graph: ChannelGraph, kept: Kept, run: Callable[[Kept], T]) -> T:
    """Returns `run(kept)`.

    Raises:
      ResizeError: that of `run`, which names the groups where unlike head sizes are the reason.
    """
    try:
        return run(kept)
    except ResizeError as error:
        unlike = list(_unlike(graph, kept))
        if not unlike or not _passes(run, _alike(kept, unlike)):
            raise
        raise ResizeError(f"{_text(kept, unlike)}\n{error}") from error


def _passes(run: Callable[[Kept], Any], kept: Kept) -> bool:
    try:
        run(kept)
    except ResizeError:
        return False
    return True


def _unlike(graph: ChannelGraph, kept: Kept) -> Iterator[_Sizes]:
    """Yields the sizes that are alike in the full network, and are not at the kept widths."""
    attentions = dict.fromkeys(_attentions(graph))
    for sizes in attentions:
        same = sizes.query.size == sizes.value.size
        if same and kept.size(sizes.query) != kept.size(sizes.value):
            yield sizes


def _attentions(graph: ChannelGraph) -> Iterator[_Sizes]:
    """Yields the sizes of every product of activations that mixes values by an earlier one.

    Frozen axes that meet stay two, as positions behind a mask do: they are known by their size. One
    that is wrong does no harm, as what follows from it is tried.
    """
    earlier: list[tuple[Space, set[Atom | int]]] = []
    for op in every_op(graph.walk):
        if not contraction.is_product(op) or any(source is not None for source in op.sources):
            continue
        summed, paired = contraction.pairs(op), contraction.batches(op)
        over = [ax.find(op.ins[0][left]) for left, _ in summed]
        mixed = _known(op.ins[0][left] for left, _ in summed)
        used = [{pair[operand] for pair in (*summed, *paired)} for operand in (0, 1)]
        free = [
            ax.find(space)
            for axes, taken in zip(op.ins, used, strict=True)
            for axis, space in enumerate(axes)
            if axis not in taken
        ]
        query = next((space for space, results in reversed(earlier) if results & mixed), None)
        for space in free:
            if query is not None and isinstance(space, Atom) and space.name is not None:
                yield _Sizes(query, space, space.name)
        if len(over) == 1:
            earlier.append((over[0], _known(op.outs[0])))


def _known(spaces: Iterable[Space]) -> set[Atom | int]:
    """The axes by which two products are known to meet."""
    every = (atom for space in spaces for atom in ax.atoms(space))
    return {atom if atom.reason is None else atom.size for atom in every}


def _alike(kept: Kept, unlike: list[_Sizes]) -> Kept:
    """The keep with the smaller count of both, or all values where the others cannot be pruned."""
    keep = dict(kept.keep)
    for sizes in unlike:
        if sizes.of_queries is None:
            for name in (sizes.of_values, *(atom.name for atom in ax.atoms(sizes.query))):
                keep.pop(name or "", None)
            continue
        count = min(kept.size(sizes.query), kept.size(sizes.value))
        for name in (sizes.of_queries, sizes.of_values):
            given = keep.get(name, np.ones(sizes.value.size, bool))
            keep[name] = given & (np.cumsum(given, axis=-1) <= count)
    return kept.other(keep)


def _text(kept: Kept, unlike: list[_Sizes]) -> str:
    """Says which groups keep unlike counts, and how they can keep one."""
    lines, ties, whole = [], [], []
    for sizes in unlike:
        full = sizes.value.size
        values = f"group {sizes.of_values!r} keeps {kept.size(sizes.value)}"
        if sizes.of_queries is None:
            whole.append(sizes.of_values)
            lines.append(f"of {full} channels {values}, its queries and keys cannot be pruned")
        else:
            ties.append([sizes.of_queries, sizes.of_values])
            keys = f"group {sizes.of_queries!r} keeps {kept.size(sizes.query)}"
            lines.append(f"of {full} channels {keys} for queries and keys, {values}")
    ways = [f"equal={ties} in jp.select"] if ties else []
    ways += [f"protect={whole} in jp.select"] if whole else []
    return (
        "the code has one head size, for queries and keys as for values:\n"
        + "\n".join(lines)
        + f"\nFix: {', and '.join(ways)}, or run jp.narrow(fn, graph, keep)."
    )
