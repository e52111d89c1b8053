"""Flax NNX: the channel graph of a model object, and the same model at the kept widths.

The variables of a model are a nest of dicts, `variables(model)`, and its function of them is
`graph.fn(variables, *inputs) -> (outputs, updates)`. Everything in this library takes these two:
`jp.mask`, `jp.narrow`, `jp.gated`, `jp.verify`, the scores, `jp.save`. `nnx.update(model,
variables)` puts variables into a model of their widths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import jax
from flax import nnx

from jaxprune import _jaxpr, lockstep, paths
from jaxprune import graph as graphs
from jaxprune._arguments import check_overrides, kind_of
from jaxprune._nnx_attributes import attributes
from jaxprune._nnx_function import Changes, Function, Method, check_module, like, set_attributes
from jaxprune._nnx_function import function as function
from jaxprune._nnx_function import variables as variables
from jaxprune._nnx_names import modules, named, path_name, place_of
from jaxprune.errors import ResizeError, TraceError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Keep, Kept, check_keep, check_tree, slice
from jaxprune.opt_state import slice_opt_state

Model = TypeVar("Model", bound=nnx.Module)
Optimizer = TypeVar("Optimizer", bound=nnx.Optimizer)


def trace(
    model: nnx.Module,
    *inputs: Any,
    method: Method = "__call__",
    rules: Mapping[Any, Any] = graphs.RULES,
    strict: bool = False,
    layers: Mapping[str, int] = MappingProxyType({}),
    free_outputs: Sequence[str] = (),
    free_constants: bool = False,
    **arguments: Any,
) -> ChannelGraph:
    """Returns the channel graph of `model(*inputs, **arguments)`, found without running it.

    The variables of the graph are `variables(model)`; `graph.fn` is `function(model)`. The mode of
    the model, `model.train()` or `model.eval()`, is the one that is traced.

    Args:
      model: the model; one from `nnx.eval_shape(lambda: Model(...))` is never allocated.
      *inputs: arrays, shapes or pytrees of them.
      method: the name of a method, or a function `(model, *inputs, **arguments)`.
      rules: as in `jp.trace`.
      strict: as in `jp.trace`.
      layers: as in `jp.trace`.
      free_outputs: as in `jp.trace`; the outputs of the model are `0` or under `0/`.
      free_constants: as in `jp.trace`.
      **arguments: constant keyword arguments of the method.

    Raises:
      TraceError: `model` is no `nnx.Module`, an argument is a shape, or as in `jp.trace`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.first = nnx.Linear(3, 8, rngs=rngs)
      ...         self.last = nnx.Linear(8, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.last(nnx.relu(self.first(x)))
      >>> model = Net(nnx.Rngs(0))
      >>> graph = jp.nnx.trace(model, jnp.ones((1, 3)))
      >>> small = jp.nnx.resize(model, graph, {"first/kernel": np.arange(8) < 5})
      >>> small.first.out_features, small(jnp.ones((1, 3))).shape
      (5, (1, 2))
    """
    fn = function(model, method=method, **arguments)
    abstract = nnx.to_pure_dict(fn.state)
    seen = replace(fn, around=named)
    options: Any = {
        "layers": layers,
        "free_outputs": free_outputs,
        "free_constants": free_constants,
    }
    graph = graphs.trace(seen, abstract, *inputs, rules=rules, strict=strict, **options)
    return replace(graph, fn=fn)


def resize(
    model: Model, graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None
) -> Model:
    """Returns a new model with the kept channels of `model`, ready to be called and trained.

    Variables are cut; arrays that stay whole are those of `model`, which is left as it is. The
    attributes of Flax's layers that hold sizes, groups or heads follow. Modules that were shared
    are shared, and the random state is that of `model`. A decoding cache that the traced call does
    not use stays as it is: call `init_cache` again. The resized network is traced and compared
    with the traced one equation by equation, so that it is the same network or an error.

    Args:
      model: the model that was traced, or another of the same shapes: trained further, in another
        mode, or fresh in a new process, for `nnx.update(resize(...), restored.variables)`.
      graph: what `trace` gave.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.
      overrides: {pattern of module paths: {attribute: value}} for attributes of your own modules
        that no shape shows; the path of the model itself is "".

    Raises:
      TraceError: `model` is no `nnx.Module`.
      KeepError: the keep does not fit the graph.
      TreeError: `model` has not the variables of the graph.
      PatternError: an override matches no module.
      ResizeError: the resized model is another network; names the equation and the module.
    """
    check_module(model)
    changes, _ = _plan(graph, keep, overrides)
    _check_variables(graph, model)
    _check_attributes(_function_of(graph).model(), model, changes)
    graphdef, rngs, state = nnx.split(model, nnx.RngState, ...)
    cut = like(state, slice(graph, nnx.to_pure_dict(state), keep))
    small = nnx.merge(graphdef, cut, rngs, copy=True)
    set_attributes(small, changes)
    return small


def follows(
    graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None
) -> tuple[str, ...]:
    """Returns the constants of the resized network that follow a pruned size, before and after.

    They are the mean over channels, the root of the head size and the like; where there is one,
    the resized network differs from the masked one. Arguments and errors as in `resize`.
    """
    return _plan(graph, keep, overrides)[1].follows


def draws(graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None) -> tuple[str, ...]:
    """Returns what the resized network draws at random over pruned channels (dropout).

    It draws fewer numbers than the masked one, and so others. Arguments and errors as in `resize`.
    """
    return _plan(graph, keep, overrides)[1].draws


def resized_function(graph: ChannelGraph, keep: Keep) -> Function:
    """Returns `graph.fn` for sliced variables; arguments and errors as in `resize`."""
    changes, _ = _plan(graph, keep, None)
    return _function_of(graph).resized(graph, Kept(keep), changes)


def resize_optimizer(
    optimizer: Optimizer, small: nnx.Module, graph: ChannelGraph, keep: Keep
) -> Optimizer:
    """Returns a new optimizer for `small`: its state is cut as the model was, its step goes on.

    The next `update` of `small` equals, on the kept entries, that of the masked full model. The
    given optimizer is left as it is; see `jp.slice_opt_state` for what can be cut.

    Args:
      optimizer: the optimizer of the full model.
      small: what `resize` gave.
      graph: what `trace` gave.
      keep: {group: bool[n]}, the keep of `small`.

    Raises:
      KeepError: the keep does not fit the graph.
      TreeError: the optimizer is not that of the graph's model, or its state cannot be cut.
    """
    if not isinstance(optimizer, nnx.Optimizer):
        raise TraceError(
            f"expected an nnx optimizer, got {kind_of(optimizer)}.\n"
            "Fix: nnx.Optimizer(model, tx, wrt=nnx.Param)."
        )
    check_keep(graph, keep)
    check_tree(graph, paths.flatten(variables(small))[0], Kept(keep).counts)
    params = jax.eval_shape(nnx.as_pure, nnx.state(small, optimizer.wrt))
    leaves, treedef = paths.flatten(params)
    full = [leaf.update(shape=graph.variables[path].shape) for path, leaf in leaves.items()]
    state = slice_opt_state(
        graph,
        nnx.as_pure(optimizer.opt_state),
        keep,
        tx=optimizer.tx,
        params=jax.tree.unflatten(treedef, full),
    )
    resized = nnx.clone(optimizer)
    structure = jax.tree.structure(optimizer.opt_state)
    resized.opt_state = nnx.data(jax.tree.unflatten(structure, jax.tree.leaves(state)))
    if isinstance(resized, nnx.ModelAndOptimizer):
        resized.model = small
    return resized


def _plan(
    graph: ChannelGraph, keep: Keep, overrides: Changes | None
) -> tuple[Changes, lockstep.Compared]:
    """The attributes to change, checked to give the same network, and what follows the widths."""
    fn = _function_of(graph)
    check_overrides(overrides)
    kept, model = Kept(check_keep(graph, keep)), fn.model()
    changes = dict(attributes(graph, kept, modules(model), _places(model)))
    for path, values in _overridden(model, overrides or {}):
        changes[path] = {**changes.get(path, {}), **values}
    small = replace(fn.resized(graph, kept, changes), around=named)
    try:
        program, _ = _jaxpr.trace(small, nnx.to_pure_dict(small.state), *graph.inputs)
    except Exception as error:
        raise ResizeError(
            f"{type(model).__name__} does not run at the kept widths: {error}\n"
            f"{place_of(error)}\n{lockstep.WAY_OUT}"
        ) from error
    return changes, lockstep.compare(graph, kept, program)


def _function_of(graph: ChannelGraph) -> Function:
    graphs.check_graph(graph)
    if isinstance(graph.fn, Function):
        return graph.fn
    raise ResizeError("the graph is not that of an nnx.Module.\nFix: jp.nnx.trace(model, *inputs).")


def _overridden(model: nnx.Module, overrides: Changes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = modules(model)
    paths.require(overrides, found, what="override for modules")
    for path, module in found.items():
        for pattern, values in overrides.items():
            if paths.matches(pattern, path):
                _check_override(path, module, values)
                yield path, values


def _check_override(path: str, module: nnx.Module, values: Mapping[str, Any]) -> None:
    known = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not nnx.is_data(value)
    ]
    if unknown := [name for name in values if name not in known]:
        raise ResizeError(
            f"overrides give {unknown} to module {path!r} ({type(module).__name__}), which has the "
            f"attributes {sorted(known)}.\nFix: name an attribute that the module reads."
        )


def _check_attributes(traced: nnx.Module, model: nnx.Module, changes: Changes) -> None:
    """Raises unless `model` has the values that the traced model has where they change."""
    ours, theirs = modules(traced), modules(model)
    failures = [
        f"{path!r} has {name}={found!r}, the traced model has {expected!r}"
        for path, values in changes.items()
        for name in values
        if (found := getattr(theirs.get(path), name, None))
        != (expected := getattr(ours[path], name))
    ]
    if failures:
        raise ResizeError(
            "the model is not the one that was traced: "
            + "; ".join(failures)
            + ".\nFix: trace this model."
        )


def _check_variables(graph: ChannelGraph, model: nnx.Module) -> None:
    leaves = paths.flatten(variables(model))[0]
    check_tree(graph, leaves, {})
    if missing := [path for path in graph.variables if path not in leaves]:
        raise TreeError(
            f"the model has no variables {missing[:8]}, which the graph has.\nFix: pass the model "
            "that was traced, or trace this one."
        )


def _places(model: nnx.Module) -> dict[int, str]:
    """{id of a variable object: its path}."""
    return {
        id(leaf): path_name(path)
        for path, leaf in nnx.iter_graph(model)
        if isinstance(leaf, nnx.Variable)
    }
