"""Pieces of the pages that are made of journals, a section for each network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Section = Callable[[Mapping[str, Any]], Iterable[str]]
"""The journal of a network -> lines."""


def page(head: str, journals: Mapping[str, Any], section: Section) -> str:
    """Returns a page, in Markdown.

    Args:
      head: what stands above the sections.
      journals: {network: what a benchmark wrote}.
      section: writes that of a network.
    """
    lines = [head]
    for name, journal in journals.items():
        lines += [f"## {name}", "", *section(journal)]
    return "\n".join(lines).rstrip() + "\n"


def interval(values: Sequence[float] | None, sign: str = "") -> str:
    """Returns a mean with its interval; nothing of None.

    >>> interval([1.5, 1.25, 1.75], sign="+")
    '+1.5000 [+1.2500, +1.7500]'
    """
    if values is None:
        return ""
    mean, low, high = values
    return f"{mean:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def network(about: Mapping[str, Any]) -> str:
    """Returns what a network is and what it was trained on."""
    return (
        f"{about['config']['model']} with {about['parameters']:,} parameters on {about['dataset']}"
    )
