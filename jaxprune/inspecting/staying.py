"""With which branches the terms of costs stay, and whether every step of a scan has its share."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import Branch, branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.carried import carried
from jaxprune.inspecting.stacked_rows import stepped
from jaxprune.inspecting.terms import Dearest, Term
from jaxprune.inspecting.without_branches import alone
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Form


class Stays(NamedTuple):
    """The branches that a contraction or a variable is there for alone: it stays with all of them.

    whole: those outside of scans. steps: those of one scan: what stays needs all of them in the
    same step. by_step: True if every step has its share of it, False if one step needs all of it,
    as of a stack that is reshaped before the scan.
    """

    whole: tuple[str, ...]
    steps: tuple[str, ...]
    by_step: bool


@once
def staying(graph: ChannelGraph) -> Mapping[Op | str, Stays]:
    """Returns {contraction, or path of a variable: with which branches it stays}.

    What several branches share is there for none of them alone. Of what only the branches of
    several scans need, those of one of them count.
    """
    needed: dict[Op | str, list[Branch]] = {}
    for branch in branches(graph).values():
        for of in (*alone(branch), *branch.variables):
            needed.setdefault(of, []).append(branch)
    known = carried(graph)
    homes = {known[i].path: scan for i, (scan, _) in stepped(graph).items() if not known[i].state}
    return MappingProxyType(
        {
            of: _stays(several, homes.get(of) if isinstance(of, str) else _scan(of))
            for of, several in needed.items()
        }
    )


def of_term(known: Mapping[Op | str, Stays], term: Term) -> Stays | None:
    """Returns with which branches a term stays; None if with all, or its alternatives differ."""
    if not isinstance(term, Dearest):
        return None if term.of is None else known.get(term.of)
    each = {of_term(known, item) for part in term.alternatives for item in part}
    return each.pop() if len(each) == 1 else None


def _stays(several: list[Branch], home: Op | None) -> Stays:
    by_scan: dict[Op | None, list[str]] = {}
    for branch in several:
        by_scan.setdefault(_scan(branch.op), []).append(branch.name)
    whole = by_scan.pop(None, [])
    steps = by_scan[home] if home in by_scan else next(iter(by_scan.values()), [])
    return Stays(tuple(whole), tuple(steps), by_step=home in by_scan)


def _scan(op: Op) -> Op | None:
    """The outermost scan that an operation stands in."""
    return next((outer for outer in op.around if outer.form is Form.SCAN), None)
