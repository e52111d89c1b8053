"""The matching Linen module at the kept widths."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from jaxprune.linen.given_module import HIDDEN, as_traced, called_modules, check_module
from jaxprune.linen.plan import Resized, Resizing, resized
from jaxprune.running import same_program
from jaxprune.running.same_program import Compared


def resize(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resized:
    """Returns the module at the kept widths, for `model2.apply(jp.slice(graph, variables, keep))`.

    The module is traced with the call of the graph and compared with it equation by equation, at
    the kept widths and, unless it is built like the traced one, as it is, so that the result is the
    same network or an error. Constants
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
    check_overrides(overrides)
    plan, found = _planned(module, graph, Kept(check_keep(graph, keep)), overrides or {})
    return resized(module, replace(plan, follows=found.follows, draws=found.draws))


def compared_at(graph: ChannelGraph, keep: Keep) -> Compared:
    """Returns in what the first module that the function calls differs, resized as by `resize`."""
    return _planned(graph.calls[0].module, graph, Kept(keep), {})[1]


def _planned(
    module: nn.Module,
    graph: ChannelGraph,
    kept: Kept,
    overrides: Mapping[str, Mapping[str, Any]],
) -> tuple[Resizing, Compared]:
    """Returns how a module changes, and in what it then differs from the masked one."""
    at = as_traced(graph, module)
    if overrides:
        _check_overrides(overrides, called_modules(graph, at()))
    attributes = _Attributes(View(graph, kept), overrides)
    plan = Resizing(
        shapes=tuple(_shapes(graph, kept)),
        attributes=(),
        selections=tuple(_selections(graph, kept).items()),
    )
    draft = _Draft(plan.shapes, (), plan.selections, found=attributes)
    compared = _first_run(graph, kept, at(draft), type(module).__name__, attributes)
    classes = tuple(attributes.classes.items())
    return replace(plan, attributes=attributes.items(), classes=classes), compared


def _first_run(
    graph: ChannelGraph,
    kept: Kept,
    fn: Callable[..., Any],
    name: str,
    attributes: "_Attributes",
) -> Compared:
    """Returns how a network at the kept widths compares, of which the attributes are found."""
    while True:
        attributes.begin()
        try:
            compared = same_program.check(graph, kept, fn, name)
        except ResizeError:
            if not attributes.classes:
                raise ResizeError(HIDDEN) from None
            if not attributes.late:
                raise
        else:
            if not attributes.classes:
                raise ResizeError(HIDDEN)
            if not attributes.late:
                return compared


def _shapes(graph: ChannelGraph, kept: Kept) -> Iterator[tuple[str, tuple[Shape, Shape]]]:
    for path, variable in graph.variables.items():
        yield path.removeprefix("params/"), (variable.shape, kept.shape(variable))


class _Attributes:
    """What changes in the modules of a network, found while it runs for the first time.

    A wrapper and what it wraps are two modules at one path, and what one of them has the other gets
    too. `late` tells that one ran without: then the network must run again.
    """

    def __init__(self, view: View, overrides: Mapping[str, Mapping[str, Any]]):
        self.view = view
        self.overrides = overrides
        self.values: dict[str, dict[str, Any]] = {}
        self.classes: dict[str, str] = {}
        self.ran: dict[str, list[nn.Module]] = {}
        self.late = False
        self.again = False

    def begin(self) -> None:
        """Begins a run of the network."""
        self.again, self.late, self.ran = self.late, False, {}

    def __call__(self, module: nn.Module, path: str, called: bool) -> Mapping[str, Any]:
        """Returns {attribute: value} of a module; see `Resizing.attributes_of`."""
        if called:
            self.classes[path] = type(module).__name__
        known, ran = self.values.setdefault(path, {}), self.ran.setdefault(path, [])
        if any(module is other for other in ran):
            return known
        found: dict[str, Any] = {}
        for kind, attributes in ATTRIBUTES.items():
            if isinstance(module, kind):
                found |= attributes(module, path, self.view)
        for pattern, values in self.overrides.items():
            if paths.matches(pattern, path):
                found |= values
        found = {k: v for k, v in found.items() if k not in known or known[k] != v}
        if self.again:  # two that want different values for one name get those of the first run
            found = {name: value for name, value in found.items() if name not in known}
        self.late |= bool(found and ran)
        known |= found
        ran.append(module)
        return known

    def items(self) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]:
        """Returns all of them, by path."""
        return tuple(
            (path, tuple(values.items())) for path, values in self.values.items() if values
        )


@dataclass(frozen=True)
class _Draft(Resizing):
    """A plan whose attributes are found while it is applied."""

    found: _Attributes | None = field(default=None, compare=False)

    def attributes_of(self) -> Callable[[nn.Module, str, bool], Mapping[str, Any]]:
        assert self.found is not None
        return self.found


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


def _check_overrides(
    overrides: Mapping[str, Mapping[str, Any]], modules: Mapping[str, list[nn.Module]]
) -> None:
    paths.require(overrides, modules, what="override for modules")
    for path, here in modules.items():
        for pattern, values in overrides.items():
            if paths.matches(pattern, path):
                _check_override(path, here, values)


def _check_override(path: str, here: list[nn.Module], values: Mapping[str, Any]) -> None:
    fields = {name for module in here for name in module.__dataclass_fields__}
    if unknown := [name for name in values if name not in fields]:
        known = sorted(fields - {"parent", "name"})
        raise ResizeError(
            f"overrides give {unknown} to module {path!r} ({type(here[-1]).__name__}), which has "
            f"the attributes {known}.\nFix: name a dataclass field that the module reads."
        )
