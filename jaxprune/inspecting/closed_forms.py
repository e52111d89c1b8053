"""The terms of the costs: those of contractions, and those of variables."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune.graph import Branches, ChannelGraph, Contraction
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.parameters import each_contraction, parameters
from jaxprune.inspecting.terms import Dearest, Product, Terms, total
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep import check

TermsOf = Callable[[ChannelGraph, Without | None], Terms]


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A cost that is a sum of products of widths; called as `jp.cost.macs` is.

    Attributes:
      name: what errors and tables call it; `__name__` likewise.
      terms: from the graph, and what went with branches, to what it is the sum of.
      of_contractions: whether operations that are not counted are missing in it.
    """

    name: str
    terms: TermsOf
    of_contractions: bool = False

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.name

    def __call__(self, graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> Any:
        """Returns the cost at the widths, or of a keep; None is the dense network."""
        at, gone = split_widths(graph, widths)
        return total(self.terms(graph, gone), at)


def split_widths(
    graph: ChannelGraph, widths: Mapping[str, Any] | None
) -> tuple[dict[str, int], Without | None]:
    """Returns the widths of the groups, and what goes with branches, if any are named."""
    named = isinstance(widths, Mapping) and any(map(check.is_branch, widths))
    if not named or widths is None:
        return check.widths(graph, widths), None
    parts = without_branches.split(graph, widths)
    gone = without_branches.without(graph, parts.branches)
    return check.widths(graph, parts.channels), gone


def macs_terms(graph: ChannelGraph, gone: Without | None = None) -> Terms:
    """The multiply-accumulates of every contraction."""

    def term(item: Contraction) -> Product:
        return Product(
            without_branches.repeats(item, gone) * item.coefficient, item.spaces, item.op
        )

    return _each(graph.contractions, term)


def activation_terms(graph: ChannelGraph, gone: Without | None = None) -> Terms:
    """The bytes that every contraction writes."""

    def term(item: Contraction) -> Product:
        return Product(without_branches.repeats(item, gone) * item.itemsize, item.output, item.op)

    return _each(graph.contractions, term)


def params_terms(graph: ChannelGraph, gone: Without | None = None) -> Terms:
    """The entries of every parameter."""
    return [term for path in parameters(graph) for term in entries(graph, path, gone)]


def weights_terms(graph: ChannelGraph, gone: Without | None = None) -> Terms:
    """The entries of every kernel."""
    kernels = {path for term in each_contraction(graph.contractions) for path in term.kernels}
    return [term for path in kernels for term in entries(graph, path, gone)]


def entries(
    graph: ChannelGraph, path: str, gone: Without | None, each: float = 1
) -> Iterator[Product]:
    """The entries of a variable that stay: all, those of some rows of a stacked one, or none."""
    axes = graph.variables[path].axes
    if gone is None or (path not in gone.variables and path not in gone.rows):
        yield Product(each, axes, path)
    elif path in gone.rows:
        yield Product(each * int(np.count_nonzero(gone.rows[path])), axes[1:], path)


def _each(
    items: Iterable[Contraction | Branches], term: Callable[[Contraction], Product]
) -> list[Product | Dearest]:
    return [
        Dearest([_each(branch, term) for branch in item.alternatives])
        if isinstance(item, Branches)
        else term(item)
        for item in items
    ]
