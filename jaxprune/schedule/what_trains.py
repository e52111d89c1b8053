"""What does not train: frozen parts of a network, and the channels that a mask has pruned."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import (
    check_arrays,
    check_names,
    check_pytree,
    check_structure,
    kind_of,
)
from jaxprune.arguments.paths import listed
from jaxprune.cutting import transforms
from jaxprune.errors import JaxpruneError, PatternError, TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.keep.check import check_keep
from jaxprune.program import reasons
from jaxprune.schedule.phase import Part


def trainable(
    graph: ChannelGraph,
    variables: Any,
    part: Part,
    *,
    head: Sequence[str] = (),
    groups: Collection[str] | None = None,
) -> Any:
    """Returns a tree of bools like `variables["params"]`: what trains in a phase.

    Args:
      part: `Part.GATES` is the scale and bias of every BatchNorm and the head, as in a Tick;
        `READERS` is every kernel that reads one of `groups`; `ALL` and `NOTHING` are what they say.
      graph: what `jaxprune.trace` returned.
      variables: the whole variables, running statistics included. Where there is no `params`, as
        in an NNX state, the result mirrors the whole tree.
      head: patterns of paths, such as `params/head/*`. By default the head is what has an axis
        that is an axis of the network's output.
      groups: of the phase; only `READERS` looks at them, and needs them.

    Raises:
      JaxpruneError: `part` is none, `groups` are not names, or `READERS` has none, one that is not
        in the graph, or none that something reads.
      PatternError: a pattern matches nothing, or has no effect because all or nothing trains.
      TreeError: no parameter has an axis of the output.
    """
    if not isinstance(part, str) or part not in list(Part):
        raise JaxpruneError(
            f"part must be one of {[str(part) for part in Part]}, got {part!r}.\n"
            "Fix: part=jp.schedule.Part.GATES."
        )
    check_graph(graph)
    check_arrays(variables, "variables")
    check_pytree(variables, "variables", "the whole variables, {'params': ..., ...}.")
    wanted = check_names(() if groups is None else groups, "groups", JaxpruneError)
    if head := listed(head, "head pattern"):
        _check_gates(part, head)
    linen = isinstance(variables, Mapping) and "params" in variables
    names, treedef = paths.flatten(variables["params"] if linen else variables)
    names = [f"params/{name}" if linen else name for name in names]
    if part == Part.READERS:
        read = _read_by(graph, wanted)
        return jax.tree.unflatten(treedef, [name in read for name in names])
    if part != Part.GATES:
        return jax.tree.unflatten(treedef, [part == Part.ALL] * len(names))
    norms = batch_norms(graph).values()
    trained = {path for norm in norms for path in (norm.scale, norm.bias)}
    outputs = {
        frozen.path for frozen in graph.frozen if frozen.why in (reasons.OUTPUT, reasons.ONE_OUTPUT)
    }
    trained |= paths.require(head, names, what="head pattern") if head else outputs
    if not head and not outputs.intersection(names):
        raise TreeError(
            "no parameter has an axis of the network's output, so nothing says what the head is.\n"
            "Fix: head=('params/...',), the layers that train with the gates."
        )
    return jax.tree.unflatten(treedef, [name in trained for name in names])


def _read_by(graph: ChannelGraph, names: Collection[str]) -> set[str]:
    """The paths of the kernels that read these groups."""
    if unknown := [name for name in names if name not in graph.groups]:
        raise JaxpruneError(
            f"groups {unknown} are not in the graph.\n"
            f"Fix: groups=phase.groups, some of {list(graph.groups)[:5]}."
        )
    slots = (slot for name in names for slot in graph.groups[name].slots)
    kernels = {slot.path for slot in slots if slot.role == "in"}
    if not kernels:
        raise JaxpruneError(
            f"part={str(Part.READERS)!r} trains what reads groups, but no kernel reads {names}.\n"
            f"Fix: groups=phase.groups, some of {list(graph.groups)[:5]}."
        )
    return kernels


def _check_gates(part: Part, head: Any) -> None:
    if part != Part.GATES:
        raise PatternError(
            f"head={head} has no effect where {part} trains: a phase of gates alone has a head.\n"
            "Fix: leave head out, or part=jp.schedule.Part.GATES."
        )


def masked_updates(
    tx: optax.GradientTransformation, graph: ChannelGraph, trained: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Returns `tx` for a network in which something does not train.

      tx = jp.schedule.masked_updates(tx, graph, jp.schedule.trainable(graph, variables, part))
      updates, state = tx.update(gradients, state, params, keep=keep)

    Neither momentum nor weight decay nor a penalty moves what is frozen or pruned: `tx` sees no
    gradient of it and its update is zero to the bit. In the state the entries of frozen leaves stay
    as they are, and those of pruned channels are zero. The masks of `keep` may be traced, so one
    compiled step serves all of a pruning.

    Args:
      tx: the optimizer; other keywords of `update` go to it.
      graph: what `jaxprune.trace` returned.
      trained: tree of bools like the parameters, False where they are frozen; None is all True.

    Returns:
      A transformation with the state of `tx`. `update` takes `keep`, {group: bool[n]}. The
      parameters are variables of the graph, with or without `params`, or gates of `jaxprune.gated`,
      {group: f32[n]}.

    Raises:
      TreeError: (from `init` and `update`) `trained` does not mirror the parameters, or (where
        there is a keep) one of them is neither a variable of the graph nor a gate.
      KeepError: (from `update`) the keep does not fit the graph.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = masked_updates(optax.sgd(0.5, momentum=0.9), graph, {"a": True, "b": False})
    >>> keep = {"a": np.array([True, False])}
    >>> updates, state = tx.update(params, tx.init(params), params, keep=keep)
    >>> updates["a"].tolist(), updates["b"].ravel().tolist()
    ([[-0.5, 0.0]], [0.0, 0.0])
    """
    if not callable(getattr(tx, "init", None)) or isinstance(tx, type):
        raise JaxpruneError(
            f"masked_updates: tx must be an optimizer, got {kind_of(tx)}.\nFix: tx=optax.sgd(0.1)."
        )
    check_graph(graph)
    inner = optax.with_extra_args_support(tx)
    whole = replace(graph, groups=_unspared(graph))

    def init(params: optax.Params) -> optax.OptState:
        check_arrays(params, "masked_updates: the parameters")
        _flags(params, trained)
        return inner.init(params)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        keep: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        check_arrays(updates, "masked_updates: the updates")
        if params is not None:
            check_structure(
                updates, params, "masked_updates: the updates", "the gradients by params."
            )
        flags = _flags(updates, trained)
        allowed = _allowed(whole, updates, {} if keep is None else keep)

        def hold(tree: Any) -> Any:
            leaves, treedef = jax.tree.flatten(tree)
            triples = zip(leaves, flags, allowed, strict=True)
            return jax.tree.unflatten(
                treedef,
                [_only(leaf, mask) if on else jnp.zeros_like(leaf) for leaf, on, mask in triples],
            )

        moved, after = inner.update(hold(updates), state, params, **extra)
        return hold(moved), _held_state(updates, flags, allowed, state, after)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _flags(params: Any, trained: Any) -> list[bool]:
    """Returns for every parameter whether it trains."""
    if trained is None:
        return [True] * len(jax.tree.leaves(params))
    expected, got = jax.tree.structure(params), jax.tree.structure(trained)
    if expected != got:
        raise TreeError(
            "masked_updates: what trains does not mirror the parameters.\n"
            f"  parameters: {expected}\n"
            f"  trained:    {got}\n"
            "Fix: jaxprune.schedule.trainable(graph, variables, part), of the same variables."
        )
    flags = jax.tree.leaves(trained)
    if not all(isinstance(flag, bool | np.bool_) for flag in flags):
        raise JaxpruneError(
            "masked_updates: what trains must be known outside of the compiled step, as bools.\n"
            "Fix: one step for each part, such as jax.jit(step, static_argnames='training')."
        )
    return flags


def _allowed(graph: ChannelGraph, params: Any, keep: Mapping[str, Any]) -> list[Any]:
    """Returns for every parameter which entries belong to no pruned channel; None is all."""
    leaves, _ = paths.flatten(params)
    keep = check_keep(graph, keep, traced=True)
    if not keep:
        return [None] * len(leaves)
    prefix = "" if leaves.keys() & graph.variables.keys() else "params/"
    places, gates, failures = {}, {}, []
    for (keys, leaf), name in zip(jax.tree_util.tree_leaves_with_path(params), leaves, strict=True):
        group = graph.groups.get(getattr(keys[-1], "key", "")) if keys else None
        if prefix + name in graph.variables and graph.variables[prefix + name].shape == leaf.shape:
            places[name] = prefix + name
        elif group is not None and leaf.shape == group.shape:
            gates[name] = keep.get(group.name)
        else:
            failures.append(f"{name!r} of shape {leaf.shape}")
    if failures:
        raise TreeError(
            "masked_updates: these parameters are neither variables of the graph nor gates of its "
            "groups:\n"
            + "\n".join(failures[:8])
            + "\nFix: pass the parameters that were traced; after slicing, trace the small network "
            "and build the optimizer anew."
        )
    ones = {path: jnp.ones(leaves[name].shape, bool) for name, path in places.items()}
    allowed = transforms.mask(graph, ones, keep)
    return [allowed[places[name]] if name in places else gates[name] for name in leaves]


def _held_state(
    params: Any, flags: Sequence[bool], allowed: Sequence[Any], before: Any, after: Any
) -> Any:
    """Returns the new state where the parameters train, else the old one, or zero where pruned.

    A leaf of the state belongs to the parameter whose key path ends its own.
    """
    owners = {
        keys: (np.shape(leaf), on, mask)
        for (keys, leaf), on, mask in zip(
            jax.tree_util.tree_leaves_with_path(params), flags, allowed, strict=True
        )
    }

    def held_leaf(keys: tuple[Any, ...], old: Any, new: Any) -> Any:
        suffixes = (keys[start:] for start in range(len(keys) + 1))
        shape, on, mask = next((owners[k] for k in suffixes if k in owners), ((), True, None))
        if not on:
            return old
        return _only(new, mask) if np.shape(new) == shape else new

    return jax.tree_util.tree_map_with_path(held_leaf, before, after)


def _only(leaf: Any, mask: Any) -> Any:
    return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))


def _unspared(graph: ChannelGraph) -> dict[str, Any]:
    """The groups with masks on every slot: nothing of a pruned channel trains."""
    return {
        name: replace(group, slots=tuple(replace(slot, masked=True) for slot in group.slots))
        for name, group in graph.groups.items()
    }
