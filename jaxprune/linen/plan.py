"""Linen modules at other widths: what runs in the place of a resized module.

The module is not rewritten. While it runs, every layer's `param` gives kept shapes, and the few
attributes that shapes cannot say (groups, heads) are set from the graph. All of this happens at
trace time; nothing is left of it in the compiled program.
"""

import inspect
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxprune.errors import JaxpruneError
from jaxprune.linen.attributes import Shape
from jaxprune.linen.kept_attributes import described, holds_modules, modules_in
from jaxprune.linen.removed import NOTHING, Removed, declare_nothing, zeros_of
from jaxprune.program import linen_calls, stream_readers
from jaxprune.running.removed_calls import is_part

Items = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
"""Attributes by the path of a module."""


class When(Enum):
    """When a module is asked for its attributes."""

    GIVEN = auto()  # as a field of a module that is called
    CALLED = auto()
    SET_UP = auto()  # after its `setup`


@dataclass(frozen=True)
class Resizing:
    """What to change at which path: hashable, so that modules stay hashable.

    `shapes`: path of a parameter -> (full shape, kept shape); `attributes`: path of a module ->
    {attribute: value}; `selections`: path of a module -> the channels that it reads;
    `follows`: the constants of the network that follow a pruned size; `draws`: what it draws over
    pruned channels; `classes`: path of a module -> its class, for `print`; `overrides`:
    those of the attributes that were found by trying; `removed`: what goes with branches.
    """

    shapes: tuple[tuple[str, tuple[Shape, Shape]], ...]
    attributes: Items
    selections: tuple[tuple[str, tuple[int, ...] | None], ...] = ()
    follows: tuple[str, ...] = field(default=(), compare=False)
    draws: tuple[str, ...] = field(default=(), compare=False)
    classes: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    overrides: Items = field(default=(), compare=False)
    removed: Removed = field(default=NOTHING)

    def below(self, path: str) -> "Resizing":
        """Returns the plan of the module at a path, for that module by itself."""

        def inside(items: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
            start = f"{path}/"
            return tuple(
                (key.removeprefix(path).removeprefix("/"), value)
                for key, value in items
                if key == path or key.startswith(start)
            )

        return replace(
            self,
            shapes=inside(self.shapes),
            attributes=inside(self.attributes),
            selections=inside(self.selections),
            classes=inside(self.classes),
            overrides=inside(self.overrides),
            removed=self.removed.below(path),
        )

    def attributes_of(self) -> Callable[[nn.Module, str, When], Mapping[str, Any]]:
        """Returns `(module, path, when) -> {attribute: value}`, for one run."""
        table = {path: dict(values) for path, values in self.attributes}
        return lambda _module, path, _when: table.get(path, {})

    @contextmanager
    def applied(self, prefix: tuple[str, ...] = ()) -> Generator[None, None, None]:
        """Modules called inside, below the scope `prefix`, have the kept widths."""
        shapes, attributes = dict(self.shapes), self.attributes_of()
        selections = dict(self.selections)

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            where = scope_of(module)
            if where is not None and where[: len(prefix)] == prefix:
                path = "/".join(where[len(prefix) :])
                self._change(module, path, shapes, attributes(module, path, When.CALLED))
                for child in _given(module):
                    below = "/".join((scope_of(child) or ())[len(prefix) :])
                    self._change(child, below, shapes, attributes(child, below, When.GIVEN))
                if context.method_name == "setup":
                    call(*args, **kwargs)
                    _set_up(module, attributes(module, path, When.SET_UP))
                    return None
                if is_call(context) and path in selections and self._selects(module):
                    chosen = selections[path]
                    call = call if chosen is None else on_stream(call, "/".join(where), chosen)
                if path in self.removed.calls:
                    return zeros_of(call, args, kwargs)
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            yield

    def _change(
        self,
        module: nn.Module,
        path: str,
        shapes: Mapping[str, tuple[Shape, Shape]],
        attributes: Mapping[str, Any],
    ) -> None:
        """Changes an instance once; of the plans of a module resized twice the last one wins."""
        done: dict[Any, Any] = vars(module).setdefault("_resized", {})
        if id(self) in done:
            return
        done[id(self)] = self  # held, so that no other plan has its id
        linen_calls.declare_quickly(module.scope)
        declare_nothing(module, path, self.removed)
        object.__setattr__(module, "param", partial(_param, module.param, path, shapes))
        for name, value in attributes.items():
            if name not in done:
                done[name] = value
                object.__setattr__(module, name, value)

    def _selects(self, module: nn.Module) -> bool:
        """True if the inputs of an instance are selected by this plan, and by no later one."""
        return vars(module).setdefault("_selected_by", self) is self


@contextmanager
def applied(plans: Sequence[Resizing], prefix: tuple[str, ...] = ()) -> Generator[None, None, None]:
    """Modules called inside, below the scope `prefix`, have the widths that the plans leave."""
    with ExitStack() as stack:
        for plan in reversed(plans):
            stack.enter_context(plan.applied(prefix))
        yield


def _set_up(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Changes what `setup` made, unless a later plan changes it."""
    done: dict[Any, Any] = vars(module)["_resized"]
    for name, value in attributes.items():
        if name not in module.__dataclass_fields__ and done.setdefault(name, value) is value:
            object.__setattr__(module, name, value)


def _given(module: nn.Module) -> Iterator[nn.Module]:
    """The modules among the fields: a module may call what no interceptor sees (`nowrap`)."""
    for name in module.__dataclass_fields__:
        child = getattr(module, name, None)
        if name != "parent" and isinstance(child, nn.Module) and child.scope is not None:
            yield child


def is_call(context: Any) -> bool:
    """True in an interceptor of `__call__`."""
    return context.method_name == "__call__"


def on_stream(
    call: Callable[..., Any], name: str, chosen: tuple[int, ...] | None
) -> Callable[..., Any]:
    """The call of a layer on its own channels of the stream, its first argument."""

    def selected(*args: Any, **kwargs: Any) -> Any:
        if args:
            return call(stream_readers.take(args[0], chosen, name), *args[1:], **kwargs)
        first = next(iter(kwargs))
        return call(**kwargs | {first: stream_readers.take(kwargs[first], chosen, name)})

    return selected


def scope_of(module: nn.Module) -> tuple[str, ...] | None:
    """Returns the path of a module's variables, None where it is not bound."""
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
        axes = sorted(range(len(full)), key=lambda axis: kept[axis] != full[axis])  # or layers go
        for axis in axes:
            rest = full[:axis] + full[axis + 1 :]
            small = kept[:axis] + kept[axis + 1 :]
            if all(n in (f, k) for n, f, k in zip(shape, rest, small, strict=True)):
                return tuple(slice(0, k) for k in small)
    return tuple(slice(0, k) for k in kept[: len(shape)])


@dataclass(frozen=True)
class Hidden:
    """A module that Flax does not adopt as a submodule: it is bound to its holder's own scope."""

    module: nn.Module


class Resized(nn.Module):
    """A module at the kept widths of `plans`, one for each time it was resized; see `resize`.

    Its attributes are those of the module, at the kept widths where the graph tells them: the
    attributes of Flax's layers, and what `overrides` gave. A module among them is a resized module
    too. Any other attribute is as it was given; `print` shows both apart.
    """

    original: Hidden
    plans: tuple[Resizing, ...] = field(repr=False)

    @property
    def follows(self) -> tuple[str, ...]:
        """The constants of the network that follow a pruned size, before and after."""
        return tuple(text for plan in self.plans for text in plan.follows)

    @property
    def draws(self) -> tuple[str, ...]:
        """What the network draws at random over pruned channels, with numbers of its own."""
        return tuple(text for plan in self.plans for text in plan.draws)

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """The attributes that were found by trying: {path of a module: {attribute: value}}."""
        return {path: dict(values) for plan in self.plans for path, values in plan.overrides}

    def run(self, *args: Any, method: str | Callable[..., Any] = "__call__", **kwargs: Any) -> Any:
        """Calls a method of the module, given by name or as a function of the module."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._running() as bound:
                return call(bound, method, args, kwargs)

        for state in (plan.removed.state for plan in self.plans):
            run = run if state is None else partial(state.called, run)
        return run(*args, **kwargs)

    @contextmanager
    def _running(self) -> Generator[nn.Module, None, None]:
        """The module in the scope of this module; what it does inside has the kept widths."""
        if "_bound" not in vars(self):
            bound = self.original.module.clone(parent=self.scope)
            object.__setattr__(self, "_bound", bound)
        with applied(self.plans, scope_of(self) or ()):
            yield vars(self)["_bound"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("original", "plans"):
            return super().__getattr__(name)
        for plan in reversed(self.plans):
            if name in (kept := dict(dict(plan.attributes).get("", ()))):
                return kept[name]
        with self._running() as bound:
            value = getattr(bound, name)
        if inspect.ismethod(value) and value.__self__ is bound:
            return types.MethodType(_named(name), self)
        if not holds_modules(value):
            return value
        in_place = value  # only a bound module has a path
        if self.scope is None:
            in_place = getattr(self.original.module.bind({}), name)
        leaves, treedef = modules_in(value)
        places = modules_in(in_place)[0]
        parts = [self._part(name, *pair) for pair in zip(leaves, places, strict=True)]
        return jax.tree.unflatten(treedef, parts)

    def _part(self, name: str, value: Any, in_place: Any) -> Any:
        """What an attribute holds; a module is resized as it is in its place."""
        if not isinstance(value, nn.Module):
            return value
        path = "/".join((scope_of(in_place) or ())[len(scope_of(self) or ()) :])
        if not any(path in dict(plan.classes) for plan in self.plans):
            raise AttributeError(
                f"{name!r} holds a module that the traced call does not have at {path!r}: it does "
                "not call it, or another module holds it too.\nFix: print(model) lists the modules "
                "with their paths."
            )
        plans = tuple(plan.below(path) for plan in self.plans)
        if value.scope is None:
            return Resized(original=Hidden(value), plans=plans, parent=None)
        scope: Any = value.scope.rewound()
        return Resized(original=Hidden(value.unbind()[0]), plans=plans, parent=scope)

    def __repr__(self) -> str:
        classes, attributes, shapes = {}, {}, {}
        gone = [call for plan in self.plans for call in plan.removed.calls]
        for plan in self.plans:
            classes |= {p: kind for p, kind in plan.classes if not any(is_part(p, m) for m in gone)}
            shapes |= {path: kept for path, (_, kept) in plan.shapes}
            for path, values in plan.attributes:
                attributes[path] = attributes.get(path, {}) | dict(values)
        return described(self.original.module, classes, attributes, shapes, gone)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        return self.run(*args, **kwargs)

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        """As `nn.Module.apply`, for any `method` of the module."""
        return super().apply(variables, *args, **_forward(method), **kwargs)

    @nn.nowrap
    def init_with_output(self, rngs: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        """As `nn.Module.init_with_output`, for any `method` of the module."""
        return super().init_with_output(rngs, *args, **_forward(method), **kwargs)

    @nn.nowrap
    def tabulate(self, rngs: Any, *args: Any, **kwargs: Any) -> str:
        """As `nn.Module.tabulate`, but for FLOPs, which Flax counts outside of the module.

        Raises:
          JaxpruneError: `compute_flops` or `compute_vjp_flops` is asked for.
        """
        if asked := [name for name in ("compute_flops", "compute_vjp_flops") if kwargs.get(name)]:
            raise JaxpruneError(
                f"{' and '.join(asked)} would count layers of a resized module at full width.\n"
                "Fix: jp.compare(graph, keep) has its multiply-accumulates."
            )
        with applied(self.plans):
            return self.original.module.tabulate(rngs, *args, **kwargs)


def call(module: nn.Module, method: str | Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls a method of a bound module, given by name or as a function of the module."""
    if inspect.ismethod(method) and isinstance(method.__self__, nn.Module):
        method = method.__name__  # that of another copy of the module
    if callable(method):
        return method(module, *args, **kwargs)
    return getattr(module, method)(*args, **kwargs)


def resized(module: nn.Module, plan: Resizing) -> Resized:
    """Returns a module at the widths that one more plan leaves."""
    if isinstance(module, Resized):
        return Resized(original=module.original, plans=(*module.plans, plan))
    return Resized(original=Hidden(module), plans=(plan,))


def _forward(method: Any) -> dict[str, Any]:
    return {} if method is None else {"method": _named(method)}


def _named(method: Any) -> Callable[..., Any]:
    """The function of a resized module that calls a method."""

    def run(module: Resized, *args: Any, **kwargs: Any) -> Any:
        return module.run(*args, method=method, **kwargs)

    if isinstance(method, str):
        run.__name__ = method
    return run
