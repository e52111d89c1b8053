"""The rules: primitive name -> how its axes relate, where zeros survive, how its sizes shrink."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxprune.program.rules import (
    choice,
    contraction,
    control,
    elementwise,
    indexing,
    random,
    reduction,
    shape,
    stream,
)
from jaxprune.program.rules.base import Known as Known
from jaxprune.program.rules.base import Rule as Rule

RULES: Mapping[str, Rule] = MappingProxyType(
    elementwise.RULES
    | choice.RULES
    | shape.RULES
    | contraction.RULES
    | reduction.RULES
    | indexing.RULES
    | random.RULES
    | control.RULES
    | stream.RULES
)
