"""The same Keras model at the kept widths."""

from collections.abc import Iterator, Mapping
from typing import Any

import jaxprune.keras.without_branches as without_branches
from jaxprune.arguments import integers, paths
from jaxprune.arguments.checks import check_overrides
from jaxprune.cutting.transforms import check_tree, sliced
from jaxprune.errors import ResizeError, TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.keras.attributes import attributes
from jaxprune.keras.library import (
    check_model,
    is_graph,
    operations,
    scope,
    unfiltered,
    without_values,
)
from jaxprune.keras.names import layers_of, variables_of
from jaxprune.keras.pure_function import Function, assign, nest, variables
from jaxprune.keras.rebuilding import Changes, Marking, Rebuilding
from jaxprune.keras.taken_over import adapt_as
from jaxprune.running import same_program
from jaxprune.running.attribute_search import Holder, Overrides, solved
from jaxprune.running.kept_depth import KeptDepth, kept_of

_OTHER = "the model is not the one that was traced"
WAY_OUT = (
    "Fix: give the layer the right value (overrides={'path/of/layer': {'units': 5}}, by the keys "
    "of its get_config), keep that group whole (protect= in jp.select), or run "
    "jp.narrow(graph.fn, graph, keep), which needs no model."
)
LONGEST = 300
"""Of the text of an error of Keras."""


def resize(model: Any, graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None) -> Any:
    """Returns a new model with the kept channels of `model`, ready to be called and trained.

    It is made anew from the configurations of the layers, with the kept sizes in them (`units`,
    `filters`, `groups`, `num_heads`, `target_shape` and the like; others are found by trying), so
    that `summary`, `fit`, `predict`, `save` and `keras.models.load_model` work as for any model.
    Its arrays are cut copies; the model that is given is left as it is. The result is compared with
    the graph equation by equation, so that it is the same network or an error.

    It is not compiled: `small.compile(jp.keras.resize_optimizer(model.optimizer, small, graph,
    keep), loss)`. A functional model whose class has a constructor of its own comes back as
    a `keras.Model`. Layers and models of your own classes need `get_config`, as in order to be
    saved. Where their configuration does not hold the sizes of the layers inside, these get them by
    attributes; such a model is not loaded from its file: save its weights (`save_weights`,
    `jp.save`), and put them into `resize` of the unpruned model.

    Refused, so far: functional models inside of layers or models of your own class or of
    `TimeDistributed`, and `Bidirectional` layers that may fuse (`use_cudnn=False` in what they
    hold helps).

    Args:
      model: the model that was traced, or one that makes the same program.
      graph: what `trace` gave.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`) of a functional model: its layers are not made.
      overrides: {pattern of layer paths: {key of the configuration: value}} for layers of your own;
        `"config.heads"` is a way into a value. An operation such as `keras.ops.reshape` is a layer
        here.

    Raises:
      TraceError: `model` is not a Keras model that is built.
      KeepError: the keep does not fit the graph.
      TreeError: `model` has not the variables of the graph.
      PatternError: an override matches no layer.
      ResizeError: the model is not the one that was traced, or the resized model is another
        network; names the equation and the layer.
      JaxpruneError: Keras is not installed, or has another backend than JAX.
    """
    small, _ = resized(model, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.keras.resize")
    return small


def resized(
    model: Any, graph: ChannelGraph, keep: Keep, overrides: Changes | None
) -> tuple[Any, same_program.Compared]:
    """Returns what `resize` does, and in what it differs from the masked model."""
    check_model(model)
    plan = _Plan(graph, keep, overrides, model)
    return plan.resized(), plan.compared


def follows(
    graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None
) -> tuple[str, ...]:
    """Returns the constants of the resized network that follow a pruned size, before and after.

    They are the mean over channels, the root of the head size and the like; where there is one,
    the resized network differs from the masked one. Arguments and errors as in `resize`.
    """
    return _Plan(graph, keep, overrides).compared.follows


def draws(graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None) -> tuple[str, ...]:
    """Returns what the resized network draws at random over pruned channels (dropout).

    It draws fewer numbers than the masked one, and so others. Arguments and errors as in `resize`.
    """
    return _Plan(graph, keep, overrides).compared.draws


def overrides(graph: ChannelGraph, keep: Keep) -> dict[str, dict[str, Any]]:
    """Returns what `resize` finds by trying: {path of a layer: {key of its configuration: value}}.

    Give them to it as `overrides`, and nothing is searched. Arguments and errors as there.
    """
    return {path: dict(values) for path, values in _Plan(graph, keep, None).extra.items()}


class _Plan:
    """How a model changes at some widths.

    Attributes:
      extra: what was found by trying.
      compared: in what the resized model differs from the masked one.
    """

    def __init__(
        self, graph: ChannelGraph, keep: Keep, overrides: Changes | None, model: Any = None
    ):
        self.fn = _function_of(graph)
        self.graph = graph
        self.model = self.fn.model if model is None else model
        check_model(self.model)
        self.keep, self.kept = keep, kept_of(graph, keep)
        check_overrides(overrides)
        self._check_model()
        self.layers = layers_of(self.model)
        self.removed = self._removed()
        self.known = {path: dict(values) for path, values in self._known(overrides or {})}
        self.rebuilding: Rebuilding | None = None
        self.small: tuple[Overrides, Any] | None = None
        with unfiltered():
            self.extra, self.compared = solved(
                graph, self.kept, self.attempt, self.check, self.holders, self.path_of
            )
            self.made(self.extra)

    def resized(self) -> Any:
        """Returns the model at the kept widths, with its arrays."""
        small = self.made(self.extra)
        assign(small, sliced(self.graph, variables(self.model), self.keep))
        return small

    def _removed(self) -> frozenset[str]:
        """The paths of the layers that go with branches."""
        if not isinstance(self.kept, KeptDepth):
            return frozenset()
        with unfiltered():
            full = self.traced({}, Marking)
            return without_branches.removed_of(self.graph, self.kept, full)

    def _check_model(self) -> None:
        """Raises unless the model makes the program of the graph."""
        leaves = paths.flatten(nest(variables_of(self.model)))[0]
        values = {path: variable.value for path, variable in leaves.items()}
        check_tree(self.graph, values, {})
        if missing := [path for path in self.graph.variables if path not in leaves]:
            raise TreeError(
                f"the model has no variables {missing[:8]}, which the graph has.\nFix: pass the "
                "model that was traced, or trace this one."
            )
        with unfiltered():
            self._compared(self.model, Kept({}), "Fix: trace this model.", _OTHER)

    def _known(self, overrides: Changes) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields what is known of the layers: by their classes, then as it is given."""
        known = dict(attributes(self.graph, self.kept, self.layers))
        configs = {**self.layers, **dict(_operations(self.layers))}
        if overrides:
            paths.require(overrides, configs, what="override for layers")
        for path, layer in configs.items():
            given: dict[str, Any] = {}
            for pattern, values in overrides.items():
                if paths.matches(pattern, path):
                    _check_override(path, layer, values)
                    given |= values
            if path in known or given:
                yield path, {**known.get(path, {}), **given}

    def changes(self, extra: Overrides) -> dict[str, dict[str, Any]]:
        """Returns how the layers change with what was tried."""
        whole = {path: dict(values) for path, values in self.known.items()}
        for path, values in extra.items():
            whole[path] = {**values, **whole.get(path, {})}
        return whole

    def attempt(self, extra: Overrides) -> same_program.Attempt:
        """Returns how far the model is the traced one."""
        if not extra:  # the model itself, where it can be made
            try:
                fn = Function(model=self.made(extra), arguments=self.fn.arguments)
            except Exception:  # the attempt below says where it fails
                fn = None
            if fn and (end := same_program.attempt(self.graph, self.kept, fn)).compared:
                return end
        return same_program.attempt(self.graph, self.kept, self.traced(extra))

    def traced(self, extra: Overrides, kind: type[Rebuilding] = Rebuilding) -> Any:
        """Returns the function of new layers that are made while they are called."""

        def run(given: Any, *inputs: Any, **keywords: Any) -> tuple[Any, Any]:
            rebuilding = self.rebuilding = self.rebuilt(extra, kind)
            values = paths.flatten(given)[0]
            inside = scope(lambda variable: rebuilding.value(values, variable))
            with without_values(), inside:
                try:
                    outputs = rebuilding.run(inputs, {**self.fn.arguments, **keywords})
                except Exception as error:
                    error.args = (_short(error),)
                    raise
                new = {
                    rebuilding.variables[id(old)]: inside.state_mapping.get(number)
                    for number, old in rebuilding.owners.items()
                }
            return outputs, nest({path: value for path, value in new.items() if value is not None})

        return run

    def rebuilt(self, extra: Overrides, kind: type[Rebuilding] = Rebuilding) -> Rebuilding:
        """Returns the layers of the model with what was tried; at full size where they mark."""
        if kind is Marking:
            return kind(self.model, {})
        return kind(self.model, self.changes(extra), self.removed)

    def made(self, extra: Overrides) -> Any:
        """Returns the model at the kept widths, of which the variables have no values yet."""
        if self.small is None or self.small[0] != extra:
            self.rebuilding = rebuilding = self.rebuilt(extra)
            with without_values():
                (_, *inputs), keywords = self.kept.call(self.graph)
                small = rebuilding.model_of(inputs, {**self.fn.arguments, **keywords})
            self._check_shapes(small)
            adapt_as(rebuilding.twins(small))
            self.small = extra, small
        return self.small[1]

    def _check_shapes(self, small: Any) -> None:
        shapes = {path: tuple(v.shape) for path, v in variables_of(small).items()}
        gone = () if self.kept.without is None else self.kept.without.variables
        for path, variable in self.graph.variables.items():
            if path in gone or shapes.get(path) == self.kept.shape(variable):
                continue
            unread = (
                "The traced call does not read it: trace the call that does, mostly with "
                "training=True.\n"
            )
            raise ResizeError(
                f"the variable {path!r} has the kept shape {self.kept.shape(variable)}, the model "
                f"at the kept widths has {shapes.get(path)}.\n"
                f"{unread if path in self.graph.unread else ''}{WAY_OUT}"
            )

    def check(self, extra: Overrides) -> same_program.Compared:
        """Returns in what the model at the kept widths differs, if it is the traced network."""
        try:
            small = self.made(extra)
        except ResizeError:
            raise
        except Exception as error:
            raise ResizeError(
                f"the model {self.model.name!r} cannot be made at the kept widths"
                f"{self._at()}: "
                f"{type(error).__name__}: {_short(error)}"
                f"\n{WAY_OUT}"
            ) from error
        return self._compared(small, self.kept, WAY_OUT, same_program.FAILURE)

    def _at(self) -> str:
        """Where the model that was made last failed."""
        layer = self.rebuilding.at if self.rebuilding else ""
        return f", at the layer {layer!r}" if layer else ""

    def _compared(self, model: Any, kept: Kept, fix: str, failure: str) -> same_program.Compared:
        fn = Function(model=model, arguments=self.fn.arguments)

        def short(*args: Any, **keywords: Any) -> Any:
            try:
                return fn(*args, **keywords)
            except Exception as error:
                raise ResizeError(
                    f"the model {model.name!r} does not run at the {same_program.widths(kept)} "
                    f"widths: {type(error).__name__}: {_short(error)}\n{fix}"
                ) from error

        return same_program.check(self.graph, kept, short, "the model", fix, failure)

    def holders(self) -> Mapping[str, Holder]:
        """Returns what the configurations of the layers hold."""
        return {
            path: Holder(type(layer).__name__, _config(layer))
            for path, layer in self.layers.items()
        }

    def path_of(self, holder: Any) -> str | None:
        """Returns the path of a layer of the last attempt."""
        return self.rebuilding.path_of(holder) if self.rebuilding else None


def _config(layer: Any) -> dict[str, Any]:
    """The configuration of a layer; of a graph of layers those of its operations by name."""
    try:
        if is_graph(layer):
            return {op.name: op.get_config() for op in operations(layer)}
        return layer.get_config()
    except NotImplementedError:
        return {}


def _operations(layers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, layer in layers.items():
        for operation in operations(layer) if is_graph(layer) else ():
            yield (f"{path}/{operation.name}" if path else operation.name), operation


def _check_override(path: str, layer: Any, values: Mapping[str, Any]) -> None:
    known = _config(layer)
    if unknown := [way for way in values if integers.leads_nowhere(known, way)]:
        raise ResizeError(
            f"overrides give {unknown} to the layer {path!r} ({type(layer).__name__}), of which "
            f"the configuration has {sorted(known)}.\nFix: name a key of its get_config()."
        )


def _function_of(graph: ChannelGraph) -> Function:
    check_graph(graph)
    if isinstance(graph.fn, Function):
        return graph.fn
    raise ResizeError(
        "the graph is not that of a Keras model.\nFix: jp.keras.trace(model, *inputs)."
    )


def _short(error: Exception) -> str:
    """What an error of Keras says last: it repeats configurations and arguments."""
    text = str(error).split("encountered: ")[-1].split("Error encountered:\n\n")[-1]
    text = " ".join(text.split())
    more = "..." if len(text) > LONGEST else ""
    return f"{text[:LONGEST]}{more}"
