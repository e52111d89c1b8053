"""The matching Linen module: behaves as the original, at the kept widths.

The module is not rewritten. While it runs, every layer's `param` gives kept shapes, and the few
attributes that shapes cannot say (groups, heads) are set from the graph. All of this happens at
trace time; nothing is left of it in the compiled program.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxprune import _jaxpr, lockstep, paths, streams
from jaxprune._arguments import check_overrides, kind_of
from jaxprune._attributes import ATTRIBUTES, Shape, View
from jaxprune._functions import check_function
from jaxprune.errors import ResizeError, TraceError
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Keep, Kept, check_keep


@dataclass(frozen=True)
class Plan:
    """What to change at which path: hashable, so that modules stay hashable.

    `shapes`: path of a parameter -> (full shape, kept shape); `attributes`: path of a module ->
    {attribute: value}; `selections`: path of a module -> the channels that it reads;
    `follows`: the constants of the network that follow a pruned size; `draws`: what it draws over
    pruned channels.
    """

    shapes: tuple[tuple[str, tuple[Shape, Shape]], ...]
    attributes: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
    selections: tuple[tuple[str, tuple[int, ...] | None], ...] = ()
    follows: tuple[str, ...] = field(default=(), compare=False)
    draws: tuple[str, ...] = field(default=(), compare=False)

    @contextmanager
    def applied(self, prefix: tuple[str, ...] = ()) -> Iterator[None]:
        """Modules called inside, below the scope `prefix`, have the kept widths."""
        shapes, attributes = dict(self.shapes), dict(self.attributes)
        selections = dict(self.selections)

        def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            where = _scope(module)
            if where is not None and where[: len(prefix)] == prefix:
                path = "/".join(where[len(prefix) :])
                self._change(module, path, shapes, attributes)
                for child in _given(module):
                    below = "/".join((_scope(child) or ())[len(prefix) :])
                    self._change(child, below, shapes, attributes)
                if _is_call(context) and path in selections and self._selects(module):
                    chosen = selections[path]
                    call = call if chosen is None else _on_stream(call, "/".join(where), chosen)
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            yield

    def _change(
        self,
        module: nn.Module,
        path: str,
        shapes: Mapping[str, tuple[Shape, Shape]],
        attributes: Mapping[str, tuple[tuple[str, Any], ...]],
    ) -> None:
        """Changes an instance once; of the plans of a module resized twice the last one wins."""
        done = vars(module).setdefault("_resized", set())
        if id(self) in done:
            return
        done.add(id(self))
        object.__setattr__(module, "param", partial(_param, module.param, path, shapes))
        for name, value in attributes.get(path, ()):
            if name not in done:
                done.add(name)
                object.__setattr__(module, name, value)

    def _selects(self, module: nn.Module) -> bool:
        """True if the inputs of an instance are selected by this plan, and by no later one."""
        return vars(module).setdefault("_selected_by", id(self)) == id(self)


def _given(module: nn.Module) -> Iterator[nn.Module]:
    """The modules among the fields: a module may call what no interceptor sees (`nowrap`)."""
    for name in module.__dataclass_fields__:
        child = getattr(module, name, None)
        if name != "parent" and isinstance(child, nn.Module) and child.scope is not None:
            yield child


def _is_call(context: Any) -> bool:
    return context.method_name == "__call__"


def _on_stream(call: Callable, name: str, chosen: tuple[int, ...] | None) -> Callable:
    """The call of a layer on its own channels of the stream, its first argument."""

    def selected(*args: Any, **kwargs: Any) -> Any:
        if args:
            return call(streams.take(args[0], chosen, name), *args[1:], **kwargs)
        first = next(iter(kwargs))
        return call(**kwargs | {first: streams.take(kwargs[first], chosen, name)})

    return selected


def select_inputs(
    fn: Callable[..., Any], layers: type[nn.Module] | tuple[type[nn.Module], ...] = nn.BatchNorm
) -> Callable[..., Any]:
    """Returns `fn` for `jp.trace`: layers that read a stream keep their own channels of it.

    In pre-activation ResNets and DenseNets many BatchNorms read one stream that must stay wide.
    Each of them has a channel group of its own then, which goes by its path; `resize` selects its
    channels at that point. Where a layer is the only reader of another layer's output, nothing
    changes.

    Args:
      fn: `(variables, *inputs) -> outputs`, such as `lambda v, x: model.apply(v, x, train=False)`.
      layers: the classes of the layers that may choose; the channels are the last axis of what
        they are called with first.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> class Block(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         x = nn.Dense(8)(x)
      ...         x = x + nn.Dense(8)(nn.BatchNorm(use_running_average=True)(x))
      ...         return nn.Dense(2)(x)
      >>> x = jnp.ones((1, 3))
      >>> variables = jax.eval_shape(Block().init, jax.random.key(0), x)
      >>> list(jp.trace(jp.linen.select_inputs(Block().apply), variables, x).groups)
      ['BatchNorm_0', 'Dense_0/kernel']

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 (the channel selection layer).
    """
    check_function(fn)
    classes = layers if isinstance(layers, tuple) else (layers,)
    if not classes or not all(isinstance(c, type) and issubclass(c, nn.Module) for c in classes):
        raise TraceError(
            f"layers must be classes of Linen layers, got {layers!r}.\nFix: layers=nn.BatchNorm."
        )

    def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, layers) and _is_call(context):
            call = _on_stream(call, "/".join(_scope(context.module) or ()), None)
        return call(*args, **kwargs)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return fn(*args, **kwargs)

    return marked


def _scope(module: nn.Module) -> tuple[str, ...] | None:
    return None if module.scope is None else tuple(module.scope.path)


def _param(
    declare: Callable[..., Any],
    path: str,
    shapes: Mapping[str, tuple[Shape, Shape]],
    name: str,
    init_fn: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Declares a parameter with an initializer of the kept shape."""
    key = f"{path}/{name}" if path else name
    if key not in shapes:
        return declare(name, init_fn, *args, **kwargs)
    full, kept = shapes[key]
    if args and isinstance(args[0], tuple | list) and len(args[0]) == len(full):
        args = (kept, *args[1:])

    def cropped(*init_args: Any, **init_kwargs: Any) -> Any:
        value = init_fn(*init_args, **init_kwargs)
        return jax.tree.map(lambda leaf: leaf[_window(leaf.shape, full, kept)], value)

    return declare(name, cropped, *args, **kwargs)


def _window(shape: Shape, full: Shape, kept: Shape) -> tuple[slice, ...]:
    """The kept part of an initial value; a scanned layer sees its shape without one axis."""
    if len(shape) == len(full) - 1:
        for axis, size in enumerate(full):
            rest = full[:axis] + full[axis + 1 :]
            small = kept[:axis] + kept[axis + 1 :]
            pairs = zip(shape, rest, small, strict=True)
            if kept[axis] == size and all(n in (f, k) for n, f, k in pairs):
                return tuple(slice(0, k) for k in small)
    return tuple(slice(0, k) for k in kept[: len(shape)])


@dataclass(frozen=True)
class Hidden:
    """A module that Flax does not adopt as a submodule: it is bound to its holder's own scope."""

    module: nn.Module


class Resized(nn.Module):
    """A module at the kept widths of `plans`, one for each time it was resized; see `resize`."""

    original: Hidden
    plans: tuple[Plan, ...] = field(repr=False)

    @property
    def follows(self) -> tuple[str, ...]:
        """The constants of the network that follow a pruned size, before and after."""
        return tuple(text for plan in self.plans for text in plan.follows)

    @property
    def draws(self) -> tuple[str, ...]:
        """What the network draws at random over pruned channels, with numbers of its own."""
        return tuple(text for plan in self.plans for text in plan.draws)

    def run(self, *args: Any, method: str | Callable[..., Any] = "__call__", **kwargs: Any) -> Any:
        """Calls a method of the module, given by name or as a function of the module."""
        prefix = tuple(self.scope.path) if self.scope else ()
        if "_bound" not in vars(self):
            bound = self.original.module.clone(parent=self.scope)
            object.__setattr__(self, "_bound", bound)
        module = vars(self)["_bound"]
        with ExitStack() as stack:
            for plan in reversed(self.plans):
                stack.enter_context(plan.applied(prefix))
            if callable(method):
                return method(module, *args, **kwargs)
            return getattr(module, method)(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        return self.run(*args, **kwargs)

    def apply(self, variables: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        """As `nn.Module.apply`, for any `method` of the module."""
        return super().apply(variables, *args, **_forward(method), **kwargs)

    def init_with_output(self, rngs: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        """As `nn.Module.init_with_output`, for any `method` of the module."""
        return super().init_with_output(rngs, *args, **_forward(method), **kwargs)


def _forward(method: Any) -> dict[str, Any]:
    if method is None:
        return {}

    def run(module: Resized, *args: Any, **kwargs: Any) -> Any:
        return module.run(*args, method=method, **kwargs)

    return {"method": run}


def resize(
    module: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resized:
    """Returns the module at the kept widths, for `model2.apply(jp.slice(graph, variables, keep))`.

    The result is re-traced and compared with the original equation by equation, so that it is the
    same network or an error. Constants that follow a width (the mean over channels, the root of
    the head size) may differ; `result.follows` lists them. So may random numbers over pruned
    channels (dropout), of which it draws fewer; `result.draws` lists them.

    Args:
      module: the module that was traced; its variables are those of the graph, or their params.
      graph: the channel graph of a function that applies `module`.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.
      overrides: {pattern of module paths: {attribute: value}} for attributes that the module
        reads and no shape shows; the path of the module itself is "".

    Raises:
      KeepError: the keep does not fit the graph.
      PatternError: an override matches no module.
      ResizeError: the resized module is another network; names the equation.
    """
    if not isinstance(module, nn.Module):
        raise ResizeError(
            f"expected a Linen Module, got {kind_of(module)}.\nFix: pass the module object that "
            "was traced; jp.nnx.resize takes NNX models, jp.resize and jp.narrow functions."
        )
    kept = Kept(check_keep(graph, keep))
    check_overrides(overrides)
    modules = _modules(graph)
    plan = Plan(
        shapes=tuple(_shapes(graph, kept)),
        attributes=tuple(_attributes(graph, kept, modules, overrides or {})),
        selections=tuple(_selections(graph, kept).items()),
    )

    def small(*args: Any) -> Any:
        with plan.applied():
            return graph.fn(*args)

    found = lockstep.check(graph, kept, small, type(module).__name__)
    plan = replace(plan, follows=found.follows, draws=found.draws)
    if isinstance(module, Resized):
        return Resized(original=module.original, plans=(*module.plans, plan))
    return Resized(original=Hidden(module), plans=(plan,))


def _modules(graph: ChannelGraph) -> dict[str, list[nn.Module]]:
    """The modules that the function calls, by their path; wrappers share that of their module."""
    found: dict[str, list[nn.Module]] = {}

    def record(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        where = _scope(context.module)
        if where is not None:
            here = found.setdefault("/".join(where), [])
            if all(module is not context.module for module in here):
                here.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        _jaxpr.trace(graph.fn, graph.abstract, *graph.inputs)
    if not found:
        raise ResizeError(
            "the traced function calls no Linen module, or hides it in a cached jit.\nFix: trace "
            "the plain function, for example lambda v, x: model.apply(v, x)."
        )
    return found


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
                f"select only one set.\n{lockstep.WAY_OUT}"
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
