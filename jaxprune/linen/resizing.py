"""The matching Linen module at the kept widths."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_overrides
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept
from jaxprune.linen.attributes import ATTRIBUTES, Shape, View
from jaxprune.linen.given_module import as_traced, check_module
from jaxprune.linen.plan import Resized, Resizing, resized
from jaxprune.running import same_program


def resize(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resized:
    """Returns the module at the kept widths, for `model2.apply(jp.slice(graph, variables, keep))`.

    The module is traced with the call of the graph and compared with it equation by equation, as
    it is and at the kept widths, so that the result is the same network or an error. Constants
    that follow a width (the mean over channels, the root of the head size) may differ;
    `result.follows` lists them. So may random numbers over pruned channels (dropout), of which it
    draws fewer; `result.draws` lists them.

    Args:
      module: the module that was traced, or one that makes the same program; its variables are
        those of the graph, or their params.
      graph: what `trace` gave, or the channel graph of a function that applies `module`.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.
      overrides: {pattern of module paths: {attribute: value}} for attributes that the module
        reads and no shape shows; the path of the module itself is "".

    Raises:
      TraceError: `module` is not an `nn.Module`.
      KeepError: the keep does not fit the graph.
      PatternError: an override matches no module.
      ResizeError: the module is not the one that was traced, or the resized module is another
        network; names the equation.
    """
    small = at_widths(module, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.linen.resize")
    return small


def at_widths(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    overrides: Mapping[str, Mapping[str, Any]] | None,
) -> Resized:
    """Returns what `resize` does, without a word on what the traced call does not read."""
    check_module(module)
    kept = Kept(check_keep(graph, keep))
    check_overrides(overrides)
    at, modules = as_traced(graph, module)
    plan = Resizing(
        shapes=tuple(_shapes(graph, kept)),
        attributes=tuple(_attributes(graph, kept, modules, overrides or {})),
        selections=tuple(_selections(graph, kept).items()),
        classes=tuple((path, type(here[-1]).__name__) for path, here in modules.items()),
    )
    found = same_program.check(graph, kept, at(plan), type(module).__name__)
    return resized(module, replace(plan, follows=found.follows, draws=found.draws))


def _shapes(graph: ChannelGraph, kept: Kept) -> Iterator[tuple[str, tuple[Shape, Shape]]]:
    for path, variable in graph.variables.items():
        yield path.removeprefix("params/"), (variable.shape, kept.shape(variable))


def _attributes(
    graph: ChannelGraph,
    kept: Kept,
    modules: Mapping[str, list[nn.Module]],
    overrides: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, tuple[tuple[str, Any], ...]]]:
    paths.require(overrides, modules, what="override for modules")
    view = View(graph, kept)
    for path, here in modules.items():
        found: dict[str, Any] = {}
        for module in here:
            for kind, attributes in ATTRIBUTES.items():
                if isinstance(module, kind):
                    found |= attributes(module, path, view)
        for pattern, values in overrides.items():
            if paths.matches(pattern, path):
                _check_override(path, here, values)
                found |= values
        if found:
            yield path, tuple(found.items())


def _selections(graph: ChannelGraph, kept: Kept) -> dict[str, tuple[int, ...] | None]:
    found: dict[str, tuple[int, ...] | None] = {}
    for reading in graph.readings:
        chosen = reading.positions(kept.keep)
        if found.setdefault(reading.name, chosen) != chosen:
            raise ResizeError(
                f"{reading.name} reads several streams that keep different channels, and can "
                f"select only one set.\n{same_program.WAY_OUT}"
            )
    return found


def _check_override(path: str, here: list[nn.Module], values: Mapping[str, Any]) -> None:
    fields = {name for module in here for name in module.__dataclass_fields__}
    if unknown := [name for name in values if name not in fields]:
        known = sorted(fields - {"parent", "name"})
        raise ResizeError(
            f"overrides give {unknown} to module {path!r} ({type(here[-1]).__name__}), which has "
            f"the attributes {known}.\nFix: name a dataclass field that the module reads."
        )
