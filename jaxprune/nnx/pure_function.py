"""A method of an NNX model as a pure function of the model's variables."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.functions import check_keywords
from jaxprune.arguments.models import not_a
from jaxprune.arguments.stable_words import shown
from jaxprune.errors import TraceError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.nnx.names import modules, path_name

Method = str | Callable[..., Any]
Changes = Mapping[str, Mapping[str, Any]]
"""{path of a module: {attribute: value}}."""

MODES = ("deterministic", "use_running_average")
"""The attributes that `model.train()` and `model.eval()` set."""

_NOT_RANDOM = nnx.Not(nnx.RngState)


def variables(model: nnx.Module) -> dict[Any, Any]:
    """Returns the variables of `model` as a nest of dicts: all arrays but the state of its rngs.

    A variable that several modules share stands at its first path only. The arrays are those of
    the model, not copies; the leaves of a model from `nnx.eval_shape` are shapes.
    """
    check_module(model)
    return nnx.to_pure_dict(nnx.state(model, _NOT_RANDOM))


def _anonymous(_model: nnx.Module) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """A method of a model as a pure function; see `function`. It holds no weights."""

    graphdef: Any
    state: Any
    """The variables as an `nnx.State` of shapes."""
    rngs: Any
    method: Method
    arguments: Mapping[str, Any]
    around: Callable[[nnx.Module], AbstractContextManager[None]] = _anonymous

    def __call__(self, variables: Any, *inputs: Any, **keywords: Any) -> tuple[Any, dict[Any, Any]]:
        """Returns the outputs, and the variables that the call wrote; keywords of now win."""
        model = self.model(like(self.state, variables))
        before = nnx.to_pure_dict(nnx.state(model, _NOT_RANDOM))
        arguments = jax.tree.map(lambda leaf: leaf, self.arguments)  # the rngs among them count
        with self.around(model):
            outputs = _bound(model, self.method)(*inputs, **{**arguments, **keywords})
        return outputs, _written(before, nnx.to_pure_dict(nnx.state(model, _NOT_RANDOM)))

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs by position."""
        if callable(self.method):
            return call_inputs.positional(self.method)[1:]
        return call_inputs.positional(_bound(self.model(), self.method))

    @property
    def called(self) -> str:
        """The method, its constant arguments and the mode of the model, in words."""
        method = self.method if isinstance(self.method, str) else shown(self.method)
        named = (f"{name}={shown(self.arguments[name])}" for name in sorted(self.arguments))
        held = modules(self.model()).values()
        modes = {
            mode: sorted({shown(getattr(m, mode)) for m in held if hasattr(m, mode)})
            for mode in MODES
        }
        words = (f"{mode}={' and '.join(values)}" for mode, values in modes.items() if values)
        return " ".join([f"{method}({', '.join(named)})", *words])

    def model(self, state: Any = None) -> Any:
        """A new model with the given variables; else with ones that have shapes and no memory."""
        state = jax.tree.map(hollow, self.state) if state is None else state
        return nnx.merge(self.graphdef, state, self.rngs, copy=True)

    def within(self, around: Callable[[nnx.Module], AbstractContextManager[None]]) -> "Function":
        """The function, every call of which is inside of a context of its model."""
        return replace(self, around=around)

    def resized(
        self,
        graph: ChannelGraph,
        kept: Kept,
        changes: Changes,
        remove: Callable[[nnx.Module], None] | None = None,
    ) -> "Function":
        """The function of the model at the kept widths; `remove` then takes modules out of it."""
        full = paths.flatten(nnx.to_pure_dict(self.state))[0]
        small = {
            path: jax.ShapeDtypeStruct(
                kept.shape(variable), variable.dtype, weak_type=full[path].weak_type
            )
            for path, variable in graph.variables.items()
        }
        cut = replace(self, state=like(self.state, small))
        model = cut.model()
        set_attributes(model, changes)
        if remove is None:
            return replace(cut, graphdef=nnx.graphdef(model))
        remove(model)
        graphdef, rngs, state = nnx.split(model, nnx.RngState, ...)
        left = jax.eval_shape(lambda state: state, state)
        return replace(cut, graphdef=graphdef, state=left, rngs=rngs)


def function(model: nnx.Module, *, method: Method = "__call__", **arguments: Any) -> Function:
    """Returns a method of `model` as a function `(variables, *inputs) -> (outputs, updates)`.

    `updates` are the variables that the call writes, such as the statistics of BatchNorm in train
    mode; they mirror the variables. The model itself is never changed. Its random state is a
    constant of the function, so that two calls draw the same dropout mask.

    Args:
      model: the model, with arrays or, from `nnx.eval_shape`, with shapes.
      method: the name of a method, or a function `(model, *inputs, **arguments)`.
      **arguments: constant keyword arguments of the method, such as `train=True`.

    Raises:
      TraceError: `model` is not an `nnx.Module`, or an argument is a shape.
    """
    check_call(model, method, arguments)
    shapes = [name for name, value in arguments.items() if _holds_shapes(value)]
    if shapes:
        raise TraceError(
            f"keyword arguments {shapes} hold shapes, but here they are constants.\nFix: give them "
            "to the function that this returns: fn(variables, x, mask=mask)."
        )
    plain = [path for path, leaf in nnx.iter_graph(model) if isinstance(leaf, jax.ShapeDtypeStruct)]
    if plain:
        raise TraceError(
            f"attributes {[path_name(path) for path in plain]} of the model are shapes, and NNX "
            "knows only arrays and variables.\nFix: make the model with arrays, without "
            "nnx.eval_shape, or wrap them with nnx.Variable."
        )
    graphdef, rngs, state = nnx.split(model, nnx.RngState, ...)
    return Function(
        graphdef=graphdef,
        state=jax.eval_shape(lambda state: state, state),
        rngs=jax.tree.map(_concrete, rngs),
        method=method,
        arguments=arguments,
    )


def _bound(model: nnx.Module, method: Method) -> Callable[..., Any]:
    """Returns a method of a model.

    Raises:
      TraceError: the model has no such method.
    """
    if callable(method):
        return partial(method, model)
    if not isinstance(method, str) or not hasattr(model, method):
        raise TraceError(
            f"method must be the name of a method of {type(model).__name__}, or a function of the "
            f"model, got {method!r}.\nFix: method='__call__', where the class has it."
        )
    return getattr(model, method)


def check_call(
    model: nnx.Module, method: Method, arguments: Mapping[str, Any], others: Sequence[str] = ()
) -> None:
    """Raises TraceError unless it is a module that has the method and takes the arguments.

    `others` are keywords that are known too: an unknown keyword may be near to them.
    """
    check_module(model)
    if method != "__call__" or callable(model):  # a module may have other methods alone
        known = ["method", *others]
        check_keywords(_bound(model, method), type(model).__name__, arguments, known)


def check_module(model: Any) -> None:
    """Raises TraceError unless `model` is an `nnx.Module`."""
    if not isinstance(model, nnx.Module):
        raise not_a("an nnx.Module", model, "howto/nnx")


def set_attributes(model: nnx.Module, changes: Changes) -> None:
    """Sets attributes of the modules of a model of our own."""
    by_path = modules(model)
    for path, values in changes.items():
        for name, value in values.items():
            setattr(by_path[path], name, value)


def like(state: Any, variables: Any) -> Any:
    """Returns the variables in the structure of `state`.

    NumPy arrays become those of JAX: into the former NNX would write where the caller holds them.

    Raises:
      TreeError: they are not those of `state`.
    """
    treedef = jax.tree.structure(state)
    numbered = nnx.to_pure_dict(jax.tree.unflatten(treedef, range(treedef.num_leaves)))
    if isinstance(variables, nnx.State):
        variables = nnx.to_pure_dict(variables)
    leaves = paths.flatten(variables)[0]
    names = {number: name for name, number in paths.flatten(numbered)[0].items()}
    if differing := sorted(leaves.keys() ^ set(names.values())):
        raise TreeError(
            f"the variables are not those of the model; {differing[:8]} are in only one of them.\n"
            "Fix: pass jp.nnx.variables(model), whole."
        )
    ordered = (leaves[names[i]] for i in range(len(names)))
    fixed = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in ordered]
    return jax.tree.unflatten(treedef, fixed)


def _written(before: Any, after: Any) -> Any:
    """The part of `after` that `before` has with other arrays."""
    written = {}
    for key in after.keys() & before.keys():
        old, new = before[key], after[key]
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _written(old, new):
                written[key] = inner
        elif [*map(id, jax.tree.leaves(old))] != [*map(id, jax.tree.leaves(new))]:
            written[key] = new
    return written


def _holds_shapes(value: Any) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(value))


def _concrete(leaf: Any) -> Any:
    """Some random state of the given shape, where there are only shapes."""
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf


def hollow(leaf: Any) -> Any:
    """Returns an array of a shape without memory; NNX takes a shape for a static attribute."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
