"""The same NNX model at the kept widths, and its optimizer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import jax
from flax import nnx

from jaxprune.arguments import integers, paths
from jaxprune.arguments.checks import check_overrides, kind_of
from jaxprune.cutting.optimizer_state import slice_opt_state
from jaxprune.cutting.shorter_state import Shorter
from jaxprune.cutting.transforms import check_tree, sliced
from jaxprune.errors import ResizeError, TraceError, TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.nnx.attributes import attributes
from jaxprune.nnx.names import modules, named, path_name, place_of
from jaxprune.nnx.pure_function import (
    MODES,
    Changes,
    Function,
    check_module,
    function,
    like,
    set_attributes,
    variables,
)
from jaxprune.nnx.removed import gone_of, replace_gone, with_less_state
from jaxprune.program import jaxpr
from jaxprune.running import head_sizes, same_program
from jaxprune.running.attribute_search import Holder, solved
from jaxprune.running.kept_depth import KeptDepth, kept_of

Model = TypeVar("Model", bound=nnx.Module)
Optimizer = TypeVar("Optimizer", bound=nnx.Optimizer[Any])

_OTHER = "the model is not the one that was traced"


def resize(
    model: Model, graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None
) -> Model:
    """Returns a new model with the kept channels of `model`, ready to be called and trained.

    Variables are cut; arrays that stay whole are those of `model`, which is left as it is. The
    attributes of Flax's layers that hold sizes, groups or heads follow. Modules that were shared
    are shared, and the random state is that of `model`. A decoding cache that the traced call does
    not use stays as it is: call `init_cache` again. The model is traced with the call of the graph
    and compared with it equation by equation, as it is and at the kept widths, so that the result
    is the same network or an error.

    Args:
      model: the model that was traced, or one that makes the same program: trained further, fresh
        in a new process, for `nnx.update(resize(...), restored.variables)`, or in another mode of
        `model.train()` and `model.eval()`: it is compared in the mode of the graph.
      graph: what `trace` gave.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`): in the places of the modules that only it had use for stand
        ones that give zeros, so that all other variables keep their paths. Where state among the
        inputs loses entries with it, the result is of a subclass whose call takes, and gives back,
        what is left of them.
      overrides: {pattern of module paths: {attribute: value}} for attributes of your own modules
        that no shape shows; the path of the model itself is "".

    Raises:
      TraceError: `model` is not an `nnx.Module`.
      KeepError: the keep does not fit the graph.
      TreeError: `model` has not the variables of the graph.
      PatternError: an override matches no module.
      ResizeError: the model is not the one that was traced, or the resized model is another
        network; names the equation and the module.
    """
    small, _ = resized(model, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.nnx.resize")
    return small


def resized(
    model: Model, graph: ChannelGraph, keep: Keep, overrides: Changes | None
) -> tuple[Model, same_program.Compared]:
    """Returns what `resize` does, and in what it differs from the masked model."""
    check_module(model)
    _function_of(graph)
    whole = kept_of(graph, keep)
    _check_variables(graph, model)
    _check_attributes(_function_of(graph).model(), model, _changes(graph, whole, overrides))
    fn = _as_traced(graph, model)

    def planned(kept: Kept) -> tuple[Changes, same_program.Compared]:
        changes, _, compared = _planned(graph, kept, fn, _changes(graph, kept, overrides))
        return changes, compared

    changes, compared = head_sizes.or_why(graph, whole, planned)
    graphdef, rngs, state = nnx.split(model, nnx.RngState, ...)
    tree = nnx.to_pure_dict(state)
    cut = sliced(graph, tree, keep)
    if whole.without is not None:  # what goes is there until its modules go
        leaves = paths.flatten(cut)[0]
        every = paths.flatten(sliced(graph, tree, whole.keep))[0]
        cut = {path: leaves.get(path, leaf) for path, leaf in every.items()}
    small = nnx.merge(graphdef, like(state, cut), rngs, copy=True)
    set_attributes(small, changes)
    if (remove := _remover(graph, whole, fn)) is not None:
        remove(small)
    return small, compared


def _remover(graph: ChannelGraph, kept: Kept, fn: Function) -> Callable[[nnx.Module], None] | None:
    """Returns what takes the modules out of a model that go with branches, None if none do."""
    if not isinstance(kept, KeptDepth):
        return None
    gone, lost = gone_of(graph, kept, fn), Shorter.of(graph, kept.without, kept.size, "0/")

    def remove(model: nnx.Module) -> None:
        replace_gone(model, gone)
        with_less_state(model, fn.method, lost)

    return remove


def follows(
    graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None
) -> tuple[str, ...]:
    """Returns the constants of the resized network that follow a pruned size, before and after.

    They are the mean over channels, the root of the head size and the like; where there is one,
    the resized network differs from the masked one. Arguments and errors as in `resize`.
    """
    return compared_at(graph, keep, overrides=overrides).follows


def draws(graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None) -> tuple[str, ...]:
    """Returns what the resized network draws at random over pruned channels (dropout).

    It draws fewer numbers than the masked one, and so others. Arguments and errors as in `resize`.
    """
    return compared_at(graph, keep, overrides=overrides).draws


def overrides(graph: ChannelGraph, keep: Keep) -> dict[str, dict[str, Any]]:
    """Returns the attributes that `resize` finds by trying: {path of a module: {attribute: value}}.

    Give them to it as `overrides`, and nothing is searched. Arguments and errors as there.
    """
    fn, kept = _function_of(graph), kept_of(graph, keep)
    return _planned(graph, kept, fn, _changes(graph, kept, None))[1]


def compared_at(
    graph: ChannelGraph, keep: Keep, *, overrides: Changes | None = None, search: bool = True
) -> same_program.Compared:
    """Returns `follows` and `draws` of one comparison; arguments and errors as in `resize`.

    Without `search` no attributes are tried.
    """
    fn = _function_of(graph)
    kept = kept_of(graph, keep)
    return _planned(graph, kept, fn, _changes(graph, kept, overrides), search=search)[2]


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
    kept = kept_of(graph, keep)
    _check_small(graph, kept, small)
    fresh = optimizer
    if kept.without is None:
        params = jax.eval_shape(nnx.as_pure, nnx.state(small, optimizer.wrt))
        leaves, treedef = paths.flatten(params)
        full = [leaf.update(shape=graph.variables[path].shape) for path, leaf in leaves.items()]
        params = jax.tree.unflatten(treedef, full)
    else:  # the variables that went had a state too
        whole = _function_of(graph).model()
        params = jax.eval_shape(nnx.as_pure, nnx.state(whole, optimizer.wrt))
        fresh = nnx.Optimizer(small, optimizer.tx, wrt=optimizer.wrt)
    state = slice_opt_state(
        graph, nnx.as_pure(optimizer.opt_state), keep, tx=optimizer.tx, params=params
    )
    resized = nnx.clone(optimizer)
    structure = jax.tree.structure(fresh.opt_state)
    resized.opt_state = nnx.data(jax.tree.unflatten(structure, jax.tree.leaves(state)))
    if isinstance(resized, nnx.ModelAndOptimizer):
        resized.model = small
    return resized


def _check_small(graph: ChannelGraph, kept: Kept, small: nnx.Module) -> None:
    """Raises TreeError unless a model has the kept variables."""
    leaves = paths.flatten(variables(small))[0]
    if kept.without is None:
        check_tree(graph, leaves, kept.counts)
        return
    wanted = {path: leaf.shape for path, leaf in paths.flatten(kept.abstract(graph))[0].items()}
    held = {path: leaf.shape for path, leaf in leaves.items() if path in graph.variables}
    if wrong := sorted(p for p in {*wanted, *held} if wanted.get(p) != held.get(p)):
        raise TreeError(
            f"the model has not the kept variables; {wrong[:5]} differ.\nFix: pass what "
            "jp.nnx.resize gave for this keep."
        )


def _changes(graph: ChannelGraph, kept: Kept, overrides: Changes | None) -> Changes:
    """The attributes of modules that change with the widths."""
    check_overrides(overrides)
    model = _function_of(graph).model()
    changes = dict(attributes(graph, kept, modules(model), _places(model)))
    for path, values in _overridden(model, overrides or {}):
        changes[path] = {**changes.get(path, {}), **values}
    return changes


def _planned(
    graph: ChannelGraph, kept: Kept, fn: Function, changes: Changes, *, search: bool = True
) -> tuple[Changes, dict[str, dict[str, Any]], same_program.Compared]:
    """Returns how modules change, which of it was found by trying, and in what the model differs.

    Raises:
      ResizeError: no attributes make it the traced one.
    """
    ours, remove = modules(fn.model()), _remover(graph, kept, fn)

    def with_extra(extra: Changes) -> Changes:
        whole = {path: dict(values) for path, values in changes.items()}
        for path, values in extra.items():
            whole[path] = {**integers.resolved(ours[path], values), **whole.get(path, {})}
        return whole

    def attempt(extra: Changes) -> same_program.Attempt:
        small = fn.resized(graph, kept, with_extra(extra), remove).within(named)
        return same_program.attempt(graph, kept, small)

    def holders() -> dict[str, Holder]:
        return {path: Holder(type(m).__name__, dict(_settings(m))) for path, m in ours.items()}

    def check(extra: Changes) -> same_program.Compared:
        return _compared(graph, kept, fn.resized(graph, kept, with_extra(extra), remove))

    extra, compared = solved(graph, kept, attempt, check, holders, search=search)
    return with_extra(extra), {path: dict(values) for path, values in extra.items()}, compared


def _settings(module: nnx.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that are neither variables nor modules."""
    for name, value in vars(module).items():
        if not name.startswith("_") and not nnx.is_data(value):
            yield name, value


def _compared(
    graph: ChannelGraph,
    kept: Kept,
    fn: Function,
    way_out: str = same_program.WAY_OUT,
    failure: str = same_program.FAILURE,
) -> same_program.Compared:
    """Returns what follows a size in `fn`, which is at the kept widths, if it is the network.

    Raises:
      ResizeError: as `same_program.check`.
    """
    small = fn.within(named)
    try:
        (_, *inputs), keywords = kept.call(graph)
        program, _ = jaxpr.trace(small, nnx.to_pure_dict(small.state), *inputs, **keywords)
    except Exception as error:
        raise ResizeError(
            f"{type(small.model()).__name__} does not run at the {same_program.widths(kept)} "
            f"widths: {error}\n{place_of(error)}\n{way_out}"
        ) from error
    return same_program.compare(graph, kept, program, way_out, failure)


def _as_traced(graph: ChannelGraph, model: nnx.Module) -> Function:
    """Returns the traced call of `model`, in the mode that was traced.

    Raises:
      ResizeError: its program is not that of the graph; names the equation and the module.
    """
    traced = _function_of(graph)
    fn = function(model, method=traced.method, **traced.arguments)
    copy, ours = fn.model(), modules(traced.model())
    for path, module in modules(copy).items():
        for name in MODES:
            if hasattr(module, name) and hasattr(ours.get(path), name):
                setattr(module, name, getattr(ours[path], name))
    fn = replace(fn, graphdef=nnx.graphdef(copy))
    if jax.tree.structure(fn.rngs) == jax.tree.structure(traced.rngs):
        fn = replace(fn, rngs=traced.rngs)
    if fn.graphdef != traced.graphdef:
        _compared(graph, Kept({}), fn, "Fix: trace this model.", _OTHER)
    return fn


def _function_of(graph: ChannelGraph) -> Function:
    check_graph(graph)
    if isinstance(graph.fn, Function):
        return graph.fn
    raise ResizeError("the graph is not that of an nnx.Module.\nFix: jp.nnx.trace(model, *inputs).")


def _overridden(model: nnx.Module, overrides: Changes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    by_path = modules(model)
    paths.require(overrides, by_path, what="override for modules")
    for path, module in by_path.items():
        for pattern, values in overrides.items():
            if paths.matches(pattern, path):
                _check_override(path, module, values)
                yield path, integers.resolved(module, values)


def _check_override(path: str, module: nnx.Module, values: Mapping[str, Any]) -> None:
    known = dict(_settings(module))
    if unknown := [way for way in values if integers.leads_nowhere(known, way)]:
        raise ResizeError(
            f"overrides give {unknown} to module {path!r} ({type(module).__name__}), which has the "
            f"attributes {sorted(known)}.\nFix: name an attribute that the module reads."
        )


def _check_attributes(traced: nnx.Module, model: nnx.Module, changes: Changes) -> None:
    """Raises unless `model` has the values that the traced model has where they change."""
    ours, theirs = modules(traced), modules(model)
    failures = [
        f"{path!r} has {name}={value!r}, the traced model has {expected!r}"
        for path, values in changes.items()
        for name in values
        if (value := getattr(theirs.get(path), name, None))
        != (expected := getattr(ours[path], name))
    ]
    if failures:
        raise ResizeError(f"{_OTHER}: {'; '.join(failures)}.\nFix: trace this model.")


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
