"""The rules: primitive name -> how its axes relate, where zeros survive, how its sizes shrink."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxprune.program.rules import (
    choice,
    contraction,
    control,
    elementwise,
    indexing,
    joining,
    pointing,
    random,
    reduction,
    shape,
    sparse,
    stream,
    transforms,
)
from jaxprune.program.rules.base import Known as Known
from jaxprune.program.rules.base import Rule as Rule


class Rules(dict[str, Rule]):
    """A table {name of a primitive: Rule}; `table | {primitive: rule}` is a larger one."""

    def __repr__(self) -> str:
        return "jp.RULES"


def _pointing(rules: Mapping[str, Rule]) -> Mapping[str, Rule]:
    """Rules that know what their primitives do with positions."""
    table = pointing.POINTS
    return {name: rule._replace(points=table.get(name)) for name, rule in rules.items()}


RULES: Mapping[str, Rule] = MappingProxyType(
    Rules(
        _pointing(
            elementwise.RULES
            | choice.RULES
            | shape.RULES
            | joining.RULES
            | contraction.RULES
            | reduction.RULES
            | indexing.RULES
            | random.RULES
            | control.RULES
            | stream.RULES
            | sparse.RULES
            | transforms.RULES
        )
    )
)
