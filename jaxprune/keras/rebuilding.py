"""A Keras model made anew from the configurations of its layers, some of them changed.

A graph of layers is run through with new layers in the place of the old ones: on symbolic tensors
this gives a new model, on traced arrays it gives the program of that model up to where it fails.
Any other layer is made by its class from its configuration. The layers that it then holds get what
they must have by the configuration around them where a value there explains it, so that a saved
model loads, and else by their attributes.
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import jax

import jaxprune.keras.without_branches as without_branches
from jaxprune.arguments import integers
from jaxprune.errors import ResizeError
from jaxprune.keras.library import (
    children,
    graph_of,
    has_constructor,
    is_graph,
    keras,
    operations,
    standardized,
    through,
)
from jaxprune.keras.names import layers_of, name_alike, own_variables, pairs, variables_of
from jaxprune.keras.taken_over import build_as, choose_alike, train_as

Changes = Mapping[str, Mapping[str, Any]]
"""{path of a layer: {key of its configuration, or a way into it: value}}."""


class Rebuilding:
    """The layers of a model at other sizes, each made when it is called for the first time."""

    def __init__(self, model: Any, changes: Changes, removed: frozenset[str] = frozenset()):
        self.model = model
        self.removed = removed
        self.changes = changes
        self.layers = layers_of(model)
        self.paths = dict(_paths(self.layers))
        self.at = ""  # the layer that is made or called
        self.made: dict[int, Any] = {}
        self.olds: dict[int, Any] = {}
        self.pairs: list[tuple[Any, Any]] = []
        self.owners: dict[int, Any] = {}  # id of a variable of a new layer: the one in its place
        self.variables = {id(v): path for path, v in variables_of(model).items()}
        self.objects = _objects(self.layers.values())

    def model_of(self, inputs: Any, arguments: Mapping[str, Any]) -> Any:
        """Returns the new model; one that is not a graph of layers is called on the inputs."""
        with keras().saving.custom_object_scope(self.objects):
            if is_graph(self.model) and graph_of(self.model):
                new = self.graph(self.model, None)
            else:
                new = self.layer(self.model)
                build_as(self.model, new)
                args, kwargs = keras().tree.map_structure(_symbol, (list(inputs), dict(arguments)))
                new(*args, **kwargs)
        twins = [*self.twins(new)]
        for old, layer in twins:
            if old.built and not layer.built:
                layer.build_from_config(old.get_build_config())
        name_alike(twins)
        train_as(twins)
        return new

    def twins(self, new: Any) -> Iterator[tuple[Any, Any]]:
        """Yields the layers of the model and of the new one that are the same."""
        if not self.removed:
            yield from pairs(self.model, new)
            return
        yield self.model, new
        for old, layer in self.pairs:
            yield from pairs(old, layer)

    def run(self, inputs: Any, arguments: Mapping[str, Any]) -> Any:
        """Returns the outputs of the new layers on traced inputs."""
        with keras().saving.custom_object_scope(self.objects):
            return self.call(self.model, inputs, dict(arguments))

    def value(self, variables: Mapping[str, Any], variable: Any) -> Any:
        """Returns the value of a variable of a new layer, of {path in the model: value}."""
        if id(variable) not in self.owners:
            for old, new in reversed(self.pairs):  # it is mostly of the layer that was made last
                owners = dict(_alike(old, new))
                if id(variable) in owners:
                    self.owners |= owners
                    break
            else:
                return None
        path = self.variables[id(self.owners[id(variable)])]
        if (value := variables.get(path)) is not None and value.shape != tuple(variable.shape):
            raise ValueError(f"{path} is made as {variable.shape}, it must be {value.shape}")
        return value

    def path_of(self, holder: Any) -> str | None:
        """Returns the path of a new layer, or of the model of an operation; None for others."""
        old = self.olds.get(id(holder))
        if old is None or isinstance(old, keras().Layer):
            return None if old is None else self.paths[id(old)]
        return self.paths[id(old)].rpartition("/")[0]  # which holds its numbers

    def call(self, old: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Returns what the new layer or operation in the place of `old` makes of its arguments."""
        outputs, args = self.without(old, args)
        if outputs is not None:
            return outputs
        if not is_graph(old):
            self.at = self.paths[id(old)]
            return self.layer(old)(*args, **kwargs)
        if any(isinstance(x, keras().KerasTensor) for x in keras().tree.flatten(args)):
            if id(old) not in self.made:
                self.made[id(old)] = self.graph(old, args[0])
            return self.made[id(old)](*args, **kwargs)
        with keras().name_scope(old.name):
            return self.inline(old, args[0], kwargs.get("training"))

    def without(self, old: Any, args: Any) -> tuple[Any, Any]:
        """Returns what stands for the outputs of what goes, else None; and the arguments left."""
        if not self.removed:
            return None, args
        return without_branches.outputs(self.removed, self.paths[id(old)], old, args)

    def inline(self, old: Any, inputs: Any, training: Any) -> Any:
        """Returns the outputs of a graph of layers, without a model around them."""

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(operation, keras().Layer):
                return self.call(operation, args, kwargs)
            if training is not None:
                kwargs["training"] = training
            outputs, args = self.without(operation, args)
            if outputs is not None:
                return outputs
            if not is_graph(operation) and not self.layer(operation).built:
                symbols = keras().tree.map_structure(_symbol, (args, kwargs))
                with jax.ensure_compile_time_eval():  # what it makes then is not in the program
                    self.layer(operation)(*symbols[0], **symbols[1])
            return self.call(operation, args, kwargs)

        if (graph := graph_of(old)) is None:
            for layer in children(old):
                inputs = call(layer, inputs)
            return inputs
        outputs = through(graph, standardized(graph, inputs), call)
        return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs

    def graph(self, old: Any, given: Any) -> Any:
        """Returns a new functional or sequential model for inputs like the given ones."""
        graph = graph_of(old)
        shapes = [x.shape for x in keras().tree.flatten(given)] if given is not None else []
        if graph is None:
            new: Any = keras().Sequential([self.layer(layer) for layer in children(old)])
            new.name = old.name
            return new
        flat = [
            _input(x, shapes[i] if i < len(shapes) else x.shape) for i, x in enumerate(graph.inputs)
        ]
        inputs = keras().tree.pack_sequence_as(graph.input, flat)
        outputs = through(graph, inputs, lambda op, *args, **kwargs: self.call(op, args, kwargs))
        kind = keras().Model if has_constructor(old) else type(old)
        if isinstance(old, keras().Sequential):
            layers = [self.made[id(layer)] for layer in children(old) if id(layer) in self.made]
            kind = keras().Sequential if has_constructor(old) else type(old)
            return kind([flat[0], *layers], name=old.name)
        return kind(inputs, outputs, name=old.name)

    def layer(self, old: Any) -> Any:
        """Returns the new layer or operation in the place of `old`, not a graph of layers."""
        if id(old) not in self.made:
            new = self.of_class(old) if isinstance(old, keras().Layer) else self.operation(old)
            self.made[id(old)] = new
            self.olds[id(new)] = old
            if isinstance(old, keras().Layer):
                self.pairs.append((old, new))
        return self.made[id(old)]

    def operation(self, old: Any) -> Any:
        """Returns an operation that is not a layer anew."""
        parent, _, name = self.paths[id(old)].rpartition("/")
        inside = self.changes.get(parent, {})
        changes = {
            w.removeprefix(f"{name}."): v for w, v in inside.items() if w.startswith(f"{name}.")
        }
        changes |= self.changes.get(self.paths[id(old)], {})
        if not changes:
            new = copy.copy(old)
            new._inbound_nodes, new._outbound_nodes = [], []
            return new
        return type(old).from_config(_resolved(old.get_config(), changes))

    def of_class(self, old: Any) -> Any:
        """Returns a layer of the class of `old` with its configuration, changed."""
        path = self.paths[id(old)]
        try:
            config = old.get_config()
        except NotImplementedError as error:
            raise ResizeError(
                f"the layer {path!r} ({type(old).__name__}) cannot be made anew: it has no "
                "configuration, since its class has no get_config and its constructor takes more "
                "than numbers and words.\nFix: write get_config, as Keras needs to save the model, "
                "or run jp.narrow(graph.fn, graph, keep), which needs no model."
            ) from error
        config = _resolved(config, self.changes.get(path, {}))
        new = _from_config(old, config)
        misfits = [*self.misfits(old, new)]
        while misfits and (better := self.explained(old, config, misfits)):
            config, new, misfits = better
        choose_alike(old, new)
        for inner, values in misfits:
            _set(inner, _from_config(inner, _resolved(inner.get_config(), values)))
        return new

    def misfits(self, old: Any, new: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yields the layers that a new one holds, and what is not yet as it must be in them."""
        name_alike([*pairs(old, new)])
        for inner, twin in [*pairs(old, new)][1:]:
            if type(inner) is not type(twin):
                continue
            try:
                config, held = inner.get_config(), dict(integers.below(twin.get_config()))
            except NotImplementedError:
                continue
            wanted = integers.below(_resolved(config, self.changes.get(self.paths[id(inner)], {})))
            if values := {way: n for way, n in wanted if held.get(way, n) != n}:
                yield twin, values

    def explained(self, old: Any, config: dict[str, Any], misfits: Any) -> Any:
        """Returns a configuration of `old` by which fewer layers inside are misfits, if any."""
        wanted = {
            (before, after)
            for inner, values in misfits
            for before, after in _numbers(inner.get_config(), values)
        }
        for way, value in integers.below(config):
            for before, after in wanted:
                if value != before:
                    continue
                try:
                    other = _resolved(config, {way: after})
                    new = _from_config(old, other)
                except Exception:  # its class refuses the number
                    continue
                left = [*self.misfits(old, new)]
                if len(left) < len(misfits):
                    return other, new, left
        return None


class Marking(Rebuilding):
    """Layers at the sizes that they have, which mark what they give with their paths."""

    def call(self, old: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Returns what the new layer or operation in the place of `old` gives."""
        return without_branches.marks(self.paths, old, super().call(old, args, kwargs))


def _paths(layers: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for path, layer in layers.items():
        yield id(layer), path
        for operation in operations(layer) if is_graph(layer) else ():
            yield id(operation), f"{path}/{operation.name}" if path else operation.name


def _objects(layers: Iterable[Any]) -> dict[str, Any]:
    """The classes and functions by whose names configurations may speak of them."""
    objects: dict[str, Any] = {}
    for layer in layers:
        for item in (type(layer), *vars(layer).values()):
            module = getattr(item, "__module__", None) or "keras."
            if callable(item) and hasattr(item, "__name__") and not module.startswith("keras."):
                objects[item.__name__] = item
    return objects


def _input(symbol: Any, shape: Any) -> Any:
    """A new input like the old one of a model; sizes that the old one has are those of `shape`."""
    old = symbol._keras_history.operation
    sizes = [None if a is None else b or a for a, b in zip(symbol.shape, shape, strict=True)]
    return keras().Input(
        batch_shape=tuple(sizes),
        dtype=symbol.dtype,
        sparse=symbol.sparse,
        name=old.name,
        optional=getattr(old, "optional", False),
    )


def _symbol(array: Any) -> Any:
    if not isinstance(array, jax.Array | jax.ShapeDtypeStruct):
        return array
    return keras().KerasTensor(array.shape, dtype=array.dtype.name)


def _resolved(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **integers.resolved(SimpleNamespace(**config), values)}


def _from_config(old: Any, config: Mapping[str, Any]) -> Any:
    """A layer of the class of `old`; a function that it calls is the same one."""
    config = _unbuilt(config)
    if not isinstance(old, keras().layers.Lambda):
        return type(old).from_config(_taken(old, config))
    new = type(old).from_config(config, safe_mode=False)
    new.function = old.function
    return new


def _unbuilt(config: Any) -> Any:
    """A copy of a configuration whose layers inside are not built at the sizes that they had."""
    if isinstance(config, Mapping):
        names = {"build_config", "compile_config"} if "class_name" in config else set[str]()
        return {key: _unbuilt(value) for key, value in config.items() if key not in names}
    if isinstance(config, list | tuple) and not hasattr(config, "_fields"):
        return type(config)(map(_unbuilt, config))
    return copy.copy(config)


def _taken(old: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration a class without a `from_config` of its own takes.

    Keras writes into it what many constructors of subclassed models do not take.
    """
    takes = inspect.signature(type(old).__init__).parameters
    anything = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in takes.values())
    if anything or type(old).__module__.startswith("keras."):
        return dict(config)
    general = ("name", "trainable", "dtype")
    return {key: value for key, value in config.items() if key in takes or key not in general}


def _numbers(config: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yields the numbers of a configuration that differ from those in `values`, and these."""
    after = dict(integers.below(_resolved(config, values)))
    for way, value in integers.below(config):
        if after.get(way, value) != value:
            yield value, after[way]


def _set(layer: Any, twin: Any) -> None:
    """Gives a layer that is not built the attributes of its twin that say its sizes."""
    for name, value in vars(twin).items():
        if name in ("name", "_path") or not _is_plain(value):
            continue
        if _plain(vars(layer).get(name)) != _plain(value):
            setattr(layer, name, value)
    if getattr(twin, "_auto_config", None) is not None:
        layer._auto_config = twin._auto_config
    for inner, other in zip(children(layer), children(twin), strict=False):
        _set(inner, other)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def _alike(old: Any, new: Any) -> Iterator[tuple[int, Any]]:
    """Yields the variables of two layers made alike: the id of the new one, the old one."""
    for a, b in pairs(old, new):
        for ours, theirs in zip(own_variables(a), own_variables(b), strict=False):
            yield id(theirs), ours
