"""Gates that are learned: trees of parameters from which gates are drawn, and the keep they end in.

gates = jp.gates.learned(graph, jp.gates.hard_concrete(), branches="*")
params = gates.init()
loss = lambda v, params, key, x: task(apply(v, gates.sample(params, key), x))
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_key, check_mapping, kind_of
from jaxprune.errors import GateError
from jaxprune.gates.branch_gates import split_gates
from jaxprune.gates.gate_laws import Law
from jaxprune.gates.sites import find_sites
from jaxprune.gates.unit_gates import check_gates, folding, refused
from jaxprune.graph import ChannelGraph, Group, check_graph
from jaxprune.groups.constraints import Groups
from jaxprune.groups.kinds import matching
from jaxprune.inspecting.branches import branches as branches_of
from jaxprune.keep.check import is_branch
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op

Tree = dict[str, Any]
"""{group or branch: something for its gates}."""


class Learned(NamedTuple):
    """Gates of some groups and branches, as pure functions; each may be jitted.

    init: () -> params, one tree to be trained: what the law learns of every gate.
    sample: (params, key) -> gates, drawn for a step of training.
    fixed: params -> gates, those of evaluation, exactly zero where they are shut.
    open: params -> {name: the probability that each gate is not zero}.
    complexity: params -> f32[], the sum of what the law's source adds to the loss for each gate.
    refused: {group: why its gate cannot be learned}; these stay whole.
    """

    init: Callable[[], Tree]
    sample: Callable[[Tree, jax.Array], Tree]
    fixed: Callable[[Tree], Tree]
    open: Callable[[Tree], Tree]
    complexity: Callable[[Tree], jax.Array]
    refused: Mapping[str, str]


def learned(
    graph: ChannelGraph,
    law: Law,
    *,
    only: Groups | None = None,
    protect: Groups = (),
    branches: Groups = (),
) -> Learned:
    """Returns gates of channels (heads are channels too) and of branches, to be learned.

    `jp.gated(fn, graph)` runs the network with them:

      params, apply = gates.init(), jp.gated(fn, graph)
      loss = lambda v, params, key, x: task(apply(v, gates.sample(params, key), x))

    Groups whose network with a gate at zero is not the network without the channel have none, nor
    have those whose gates `jp.gates.fold` cannot fold; `refused` names them. So for every group the
    way back is exact:

      fixed = gates.fixed(params)
      keep = jp.gates.kept(graph, fixed)
      small = jp.slice(graph, jp.gates.fold(graph, variables, fixed), keep)

    runs under `jp.narrow(fn, graph, keep)` as `jp.gated(fn, graph)(variables, fixed, x)` does. Of a
    branch that ends in dropout or in a nonlinear function `fold` says that its gate has no weights:
    leave it out, and train on with it at one.

    Args:
      graph: what `jaxprune.trace` returned.
      law: `jp.gates.hard_concrete()`, `jp.gates.gaussian()`, or one of yours.
      only: names, patterns or kinds of the only groups that have gates; default all that can, and
        () for none. A group among them that can have none is an error.
      protect: names, patterns or kinds of groups without gates.
      branches: names or patterns of branches (`jp.branches`) that have gates, "*" for all.

    Raises:
      GateError: `law` is none, a group in `only` cannot have gates, or nothing is left.
      PatternError: a pattern matches nothing.

    Source: Louizos et al., ICLR 2018 (channels); Xia et al., "Structured Pruning Learns Compact and
    Accurate Models", ACL 2022 (channels, heads and layers together).

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> graph = jp.trace(fn, v, jnp.ones((4, 2)))
    >>> gates = jp.gates.learned(graph, jp.gates.hard_concrete())
    >>> params = gates.init() | {"a": jnp.array([9.0, 9.0, -9.0])}
    >>> fixed = gates.fixed(params)
    >>> fixed["a"].tolist(), jp.gates.kept(graph, fixed)["a"].tolist()
    ([1.0, 1.0, 0.0], [True, True, False])
    """
    if not isinstance(law, Law):
        raise GateError(
            f"law must be a jp.gates.Law, got {kind_of(law)}.\nFix: jp.gates.hard_concrete()."
        )
    without = unlearnable(graph)
    shapes = _shapes(graph, without, only, protect, branches)
    like = {name: jax.eval_shape(partial(law.init, shape)) for name, shape in shapes.items()}

    def each(params: Tree, read: Callable[[Any], Any]) -> Tree:
        ordered = _params(like, params)
        return {name: read(value) for name, value in ordered.items()}

    def sample(params: Tree, key: jax.Array) -> Tree:
        check_key(key, GateError)
        ordered = _params(like, params)
        keys = jax.random.split(key, len(ordered))
        return {name: law.sample(k, ordered[name]) for k, name in zip(keys, ordered, strict=True)}

    return Learned(
        init=lambda: {name: law.init(shape) for name, shape in shapes.items()},
        sample=sample,
        fixed=lambda params: each(params, law.fixed),
        open=lambda params: each(params, law.open),
        complexity=lambda params: sum(
            (value.sum() for value in each(params, law.complexity).values()), jnp.zeros(())
        ),
        refused=without,
    )


def unlearnable(graph: ChannelGraph) -> dict[str, str]:
    """Returns {group: reason} for the groups whose gates are not learned; see `learned`.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((4, 2)))
    >>> jp.gates.unlearnable(graph)
    {}
    """
    reasons = refused(graph)
    reasons |= {
        name: f"a gate at zero does not stand for the cut: {group.inexact}"
        for name, group in graph.groups.items()
        if group.inexact is not None and name not in reasons
    }
    reasons = {**_ungated(graph), **reasons}
    return {**folding(graph, [n for n in graph.groups if n not in reasons])[1], **reasons}


def kept(graph: ChannelGraph, gates: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keep of the gates that are not zero: {group: bool[n], branch: bool}.

    A group keeps at least one channel (as many as `Group.least` says), and stacked layers as many
    as the layer that has most: channels of gates that are zero fill up, which weigh nothing once
    the gates are folded into the variables (`jp.gates.fold`).

    Args:
      graph: what `jaxprune.trace` returned.
      gates: {group: f32[n], branch: f32[]}, such as `learned(...).fixed(params)`.

    Raises:
      GateError: a name is unknown, or gates are traced, of the wrong shape, or not finite.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((4, 2)))
    >>> jp.gates.kept(graph, {"a": [0.0, 0.25, 1.0]})["a"].tolist()
    [False, True, True]
    """
    check_graph(graph)
    check_mapping(gates, "gates", "{group: f32[n], branch: f32[]}", GateError)
    if traced := [name for name, gate in gates.items() if isinstance(gate, Tracer)]:
        raise GateError(
            f"the gates of {traced[:5]} are traced, but they decide which channels stay.\n"
            "Fix: return them from the jitted function, and take the keep outside of it."
        )
    of_branches, channels = split_gates(graph, gates)
    check_gates(graph, channels)
    known = branches_of(graph)
    values = {name: np.asarray(gate) for name, gate in (of_branches | channels).items()}
    values = {name: gate.astype(np.float64) for name, gate in values.items()}
    bad = [name for name, gate in values.items() if not np.isfinite(gate).all()]
    if bad:
        raise GateError(f"the gates of {bad[:5]} are not finite.\nFix: gates of finite params.")
    return {
        name: (gate != 0).reshape(known[name].shape)
        if is_branch(name)
        else _mask(graph.groups[name], np.abs(gate))
        for name, gate in values.items()
    }


def _mask(group: Group, size: np.ndarray) -> np.ndarray:
    """The channels of the largest gates, of every layer as many as one of them has open."""
    count = max(int(np.count_nonzero(size, axis=-1).max()), group.least)
    order = np.argsort(-size, axis=-1, kind="stable")
    mask = np.zeros(size.shape, bool)
    np.put_along_axis(mask, order[..., :count], True, axis=-1)
    return mask


def _shapes(
    graph: ChannelGraph,
    without: Mapping[str, str],
    only: Groups | None,
    protect: Groups,
    branches: Groups,
) -> dict[str, tuple[int, ...]]:
    """Returns {group or branch: the shape of its gates}, in the order of the graph."""
    every, known = list(graph.groups), branches_of(graph)
    chosen = set(every) - without.keys()
    if only is not None:
        chosen = matching(graph, only, every, what="only pattern")
    chosen -= matching(graph, protect, every, what="protect pattern")
    if bad := [name for name in every if name in chosen and name in without]:
        raise GateError(
            "\n".join(
                [
                    "the gates of these groups cannot be learned:",
                    *(f"group {name!r}: {without[name]}" for name in bad),
                    "Fix: name them in protect=; jp.gates.unlearnable(graph) lists all.",
                ]
            )
        )
    gated = paths.require(branches, known, what="branches pattern")
    shapes = {name: graph.groups[name].shape for name in every if name in chosen}
    shapes |= {name: item.shape for name, item in known.items() if name in gated}
    if not shapes:
        reasons = [f"group {name!r}: {why}" for name, why in list(without.items())[:5]]
        fix = "Fix: leave only out to take all groups that can have gates, or name branches."
        raise GateError("\n".join(["no group and no branch is left for gates.", *reasons, fix]))
    return shapes


def _params(like: Tree, params: Any) -> Tree:
    """Returns the parameters in their order.

    Raises:
      GateError: they are not those that `init` gives.
    """
    given = check_mapping(params, "params", "the tree that init() gives", GateError)
    failures = [f"there is no gate {name!r}" for name in given if name not in like]
    for name, wanted in like.items():
        if name not in given:
            failures.append(f"the params of {name!r} are missing")
        elif not _alike(given[name], wanted):
            expected = jax.tree.map(lambda leaf: f"f32{list(leaf.shape)}", wanted)
            failures.append(f"the params of {name!r} are {kind_of(given[name])}, not {expected}")
    if failures:
        fix = "Fix: params = learned(graph, law).init(), of the same graph, law and groups."
        raise GateError("\n".join(["these params are not those of the gates:", *failures, fix]))
    return {name: jax.tree.map(jnp.asarray, given[name]) for name in like}


def _alike(value: Any, wanted: Any) -> bool:
    """True for a tree of floats of the same structure and shapes."""
    if jax.tree.structure(value) != jax.tree.structure(wanted):
        return False
    pairs = zip(jax.tree.leaves(value), jax.tree.leaves(wanted), strict=True)
    return all(
        isinstance(leaf, np.ndarray | np.generic | jax.Array)
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and np.shape(leaf) == like.shape
        for leaf, like in pairs
    )


def _ungated(graph: ChannelGraph) -> dict[str, str]:
    """Returns {group: why} for groups whose channels something reads behind which no gate is."""
    gated = {id(site.op) for site in find_sites(graph.walk)}
    reasons: dict[str, str] = {}
    for op in every_op(graph.walk):
        if id(op) in gated or op.form is not None:
            continue
        for name in _names(op.ins) - _names(op.outs):
            reasons.setdefault(name, f"{op!r} at {op.place} reads its channels without a gate")
    return {name: reasons[name] for name in graph.groups if name in reasons}


def _names(values: Any) -> set[str]:
    return {atom.name for axes in values for space in axes for atom in ax.atoms(space) if atom.name}
