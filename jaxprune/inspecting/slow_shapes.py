"""What a table of latencies says of shapes: which are slow, and which widths save no time."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxprune.inspecting.aligned import ruled, table

SHOWN = 20
"""At most so many shapes are listed."""
_OPERAND = re.compile(r" (\w+)\[([\d, ]*)\]")


class Key(NamedTuple):
    """The key of a contraction in a table: operation, types and shapes, parameters.

    family: what differs in no width. sizes: of all axes of the operands. shown: without parameters.
    """

    family: tuple[str, ...]
    sizes: tuple[int, ...]
    shown: str

    @classmethod
    def read(cls, text: str) -> "Key":
        """Returns the parts of a key.

        >>> Key.read("dot_general float32[8, 2] float32[2, 4] precision=None")[:2]
        (('dot_general', 'float32 of 2', 'float32 of 2', ' precision=None'), (8, 2, 2, 4))
        """
        name = text.partition(" ")[0]
        end, types, sizes = len(name), list[str](), list[int]()
        while operand := _OPERAND.match(text, end):
            shape = [int(size) for size in operand[2].split(",") if size]
            types.append(f"{operand[1]} of {len(shape)}")
            sizes += shape
            end = operand.end()
        return cls((name, *types, text[end:]), tuple(sizes), text[:end])

    def narrower(self, other: "Key") -> bool:
        """Whether no axis is wider than that of another one of the family, and some are not."""
        pairs = zip(self.sizes, other.sizes, strict=True)
        return self.sizes != other.sizes and all(mine <= theirs for mine, theirs in pairs)


def lines(seconds: Mapping[str, float]) -> Iterator[str]:
    """Yields a line for each of the slowest shapes; a star where a wider one takes no longer."""
    keys, families = {text: Key.read(text) for text in seconds}, defaultdict[Any, list[str]](list)
    for text, key in keys.items():
        families[key.family].append(text)
    wasted = {
        text
        for family in families.values()
        for text, other in itertools.permutations(family, 2)
        if seconds[other] <= seconds[text] and keys[text].narrower(keys[other])
    }
    slowest = sorted(keys, key=seconds.__getitem__, reverse=True)[:SHOWN]
    rows = [
        (f"{1e6 * seconds[text]:,.1f}", "*" if text in wasted else "", keys[text].shown)
        for text in slowest
    ]
    aligned = table([("us", "", "operation"), *rows], numbers={0})
    yield from ruled(aligned, after=(0, len(rows)))
    if faster := len(keys) - len(rows):
        yield f"and {faster:,} that are faster"
    yield f"* a wider one takes no longer: {len(wasted):,} of {len(keys):,}"
