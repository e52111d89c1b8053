"""The matching Linen module at the kept widths."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn

from jaxprune.arguments import integers, paths
from jaxprune.arguments.checks import check_overrides
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.linen.attributes import Shape, View
from jaxprune.linen.found_attributes import Attributes, Draft, held_by, holders, items, path_of
from jaxprune.linen.given_module import (
    HIDDEN,
    At,
    Function,
    as_traced,
    called_modules,
    check_module,
)
from jaxprune.linen.plan import Resized, Resizing, resized
from jaxprune.linen.removed import Removed, marked, removed_of, state_of
from jaxprune.running import head_sizes, same_program
from jaxprune.running.attribute_search import Overrides, solved
from jaxprune.running.compared import Attempt, Compared
from jaxprune.running.kept_depth import KeptDepth, kept_of


def resize(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    *,
    overrides: Overrides | None = None,
) -> Resized:
    """Returns the module at the kept widths, for `model2.apply(jp.slice(graph, variables, keep))`.

    The module is traced with the call of the graph and compared with it equation by equation, at
    the kept widths and, unless it is built like the traced one, as it is, so that the result is the
    same network or an error. Constants that follow a width (the mean over channels, the root of the
    head size) may differ; `result.follows` lists them. So may random numbers over pruned channels
    (dropout), of which it draws fewer; `result.draws` lists them.

    Sizes that the module keeps in its fields, or in configurations there (the number of heads, an
    inner width), are found by trying, so far as the equations tell them; `result.overrides` lists
    what was set. Write it down as `overrides`: then nothing is searched.

    Args:
      module: the module that was traced, or one that makes the same program; its variables are
        those of the graph, or their params.
      graph: what `trace` gave, or the channel graph of a function that applies `module`.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`): the module calls that only it had use for are skipped, and
        declare nothing. Of a scan a layer goes as a whole, with all of its branches.
      overrides: {pattern of module paths: {attribute: value}} for attributes that the module
        reads and no shape shows; the path of the module itself is "". These are not searched.

    Raises:
      TraceError: `module` is not an `nn.Module`.
      KeepError: the keep does not fit the graph.
      PatternError: an override matches no module.
      ResizeError: the module is not the one that was traced, or the resized module is another
        network; names the equation.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
      >>> x = jnp.ones((1, 3))
      >>> v = model.init(jax.random.key(0), x)
      >>> graph = jp.linen.trace(model, v, x)
      >>> keep = {"layers_0/kernel": np.arange(8) < 5}
      >>> small_model = jp.linen.resize(model, graph, keep)
      >>> small_model.apply(jp.slice(graph, v, keep), x).shape
      (1, 2)
    """
    small = at_widths(module, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.linen.resize")
    return small


def at_widths(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    overrides: Overrides | None,
) -> Resized:
    """Returns what `resize` does, without a word on what the traced call does not read."""
    check_module(module)
    check_overrides(overrides)
    plan, compared = head_sizes.or_why(
        graph,
        kept_of(graph, keep),
        lambda kept: _planned(module, graph, kept, overrides or {}),
    )
    return resized(module, replace(plan, follows=compared.follows, draws=compared.draws))


def compared_at(graph: ChannelGraph, keep: Keep, *, search: bool = True) -> Compared:
    """Returns in what the first module that the function calls differs, resized as by `resize`.

    Without `search` no attributes are tried.
    """
    return _planned(graph.calls[0].module, graph, kept_of(graph, keep), {}, search=search)[1]


def _planned(
    module: nn.Module,
    graph: ChannelGraph,
    kept: Kept,
    overrides: Overrides,
    *,
    search: bool = True,
) -> tuple[Resizing, Compared]:
    """Returns how a module changes, and in what it then differs from the masked one."""
    at, name = as_traced(graph, module), type(module).__name__
    modules = functools.cache(lambda: called_modules(graph, at()))
    if overrides:
        _check_overrides(overrides, modules())
    tried = _Tried(graph, kept, at, overrides)
    extra, compared = solved(
        graph,
        kept,
        tried.attempt,
        lambda extra: same_program.check(graph, kept, at(tried.plan(extra)), name),
        lambda: holders(modules()),
        path_of,
        search=search,
    )
    return tried.plan(extra), compared


class _Tried:
    """The network at the kept widths; the latest run tells its attributes."""

    def __init__(self, graph: ChannelGraph, kept: Kept, at: At, overrides: Overrides):
        self.graph = graph
        self.kept = kept
        self.at = at
        self.overrides = overrides
        self.view = View(graph, kept)
        self.shapes = tuple(_shapes(graph, kept))
        self.selections = tuple(_selections(graph, kept).items())
        self.removed = _removed(graph, kept, at)
        self.latest = Attributes(self.view, overrides, {})

    def attempt(self, extra: Overrides) -> Attempt:
        """Returns how far the network is the traced one, with what was found.

        Raises:
          ResizeError: it calls no module.
        """
        self.latest = Attributes(self.view, self.overrides, extra)
        fn = self.at(
            Draft(self.shapes, (), self.selections, removed=self.removed, finder=self.latest)
        )
        while True:
            self.latest.begin()
            attempt = same_program.attempt(self.graph, self.kept, fn)
            if not self.latest.classes:
                raise ResizeError(HIDDEN)
            if not self.latest.late:
                return attempt

    def plan(self, extra: Overrides) -> Resizing:
        """Returns how the module changes, with what was found."""
        if self.latest.extra != extra:
            self.attempt(extra)
        return Resizing(
            shapes=self.shapes,
            attributes=items(self.latest.values),
            selections=self.selections,
            classes=tuple(self.latest.classes.items()),
            overrides=items(extra),
            removed=self.removed,
        )


def _removed(graph: ChannelGraph, kept: Kept, at: At) -> Removed:
    """What of the modules goes with branches."""
    if not isinstance(kept, KeptDepth):
        return Removed()
    removed = removed_of(graph, kept, lambda paths: marked(at(), paths))
    if not isinstance(graph.fn, Function):  # whose inputs may be others than those of the module
        return removed
    mutable = graph.constants.get("mutable", False) is not False
    return removed._replace(state=state_of(graph, kept, mutable=mutable))


def _shapes(graph: ChannelGraph, kept: Kept) -> Iterator[tuple[str, tuple[Shape, Shape]]]:
    for path, variable in graph.variables.items():
        yield path.removeprefix("params/"), (variable.shape, kept.shape(variable))


def _selections(graph: ChannelGraph, kept: Kept) -> dict[str, tuple[int, ...] | None]:
    selections: dict[str, tuple[int, ...] | None] = {}
    for reading in graph.readings:
        chosen = reading.positions(kept.keep)
        if selections.setdefault(reading.name, chosen) != chosen:
            raise ResizeError(
                f"{reading.name} reads several streams that keep different channels, and can "
                f"select only one set.\n{same_program.WAY_OUT}"
            )
    return selections


def _check_overrides(overrides: Overrides, modules: Mapping[str, list[nn.Module]]) -> None:
    paths.require(overrides, modules, what="override for modules")
    for path, here in modules.items():
        for pattern, values in overrides.items():
            if paths.matches(pattern, path):
                _check_override(path, here, values)


def _check_override(path: str, here: list[nn.Module], values: Mapping[str, Any]) -> None:
    held = held_by(here)
    if unknown := [way for way in values if integers.leads_nowhere(held, way)]:
        raise ResizeError(
            f"overrides give {unknown} to module {path!r} ({type(here[-1]).__name__}), which has "
            f"the attributes {sorted(held)}.\nFix: name an attribute that the module reads."
        )
