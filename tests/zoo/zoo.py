"""What a network of the zoo states of itself, and the one check that holds it to that.

A network names all its channel groups with their sizes, what is frozen and why, and which groups
are inexact: a rule that freezes too much, or ties too much, fails here. Then it is pruned to about
40 % of its channels, in no order, and run in every way that there is.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
import laws
import networks
from jaxprune.running.verify import following

Apply = Callable[[Any, Any], Any]
"""`(variables, inputs) -> (outputs, updated variables)`, the inputs a tuple."""
Inputs = Callable[[int], tuple[Any, ...]]
"""Batch size -> the inputs, numpy arrays in double precision."""
Keep = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network, and what must be found in it; made by `linen` or `function`.

    Attributes:
      applied: `train -> apply`.
      variables: `() -> variables` in double precision, under `params` what is trained.
      inputs: the batch size -> the inputs.
      groups: {name: size} of all channel groups.
      frozen: {reason, or how it begins: ["path axis", ...]} of the axes of variables that are
        frozen, or have frozen parts; paths may be patterns; without `params/`, and without the
        windows of kernels.
      inexact: {group: a part of the reason}.
      resized: `(graph, keep, train) -> (apply, whether a constant of it may follow a width)` of
        the resized network; None where only `narrow` runs it.
      native: `(widths, train) -> apply` of the same network made by hand at other widths. Needed
        where inexact groups change a constant, such as the number of channels of a LayerNorm:
        `narrow` keeps that as traced.
      elsewhere: inputs of other sizes for which the same variables serve.
    """

    name: str
    applied: Callable[[bool], Apply]
    variables: Callable[[], Any]
    inputs: Inputs
    groups: Mapping[str, int]
    frozen: Mapping[str, Sequence[str]]
    inexact: Mapping[str, str] = field(default_factory=dict)
    resized: Callable[[jp.ChannelGraph, Keep, bool], tuple[Apply, bool]] | None = None
    native: Callable[[Mapping[str, int], bool], Apply] | None = None
    elsewhere: Inputs | None = None


def linen(
    name: str,
    module: nn.Module,
    inputs: Inputs,
    *,
    narrow_only: bool = False,
    native: Callable[[Mapping[str, int]], nn.Module] | None = None,
    overrides: Callable[[Mapping[str, int]], Mapping[str, Any]] | None = None,
    **stated: Any,
) -> Network:
    """Returns the `Network` of a module that is called as `module(*inputs, train=train)`.

    It trains where it has `batch_stats`. `native` gives the module at other widths, `overrides`
    the attributes that `resize` cannot know.
    """

    def applied(train: bool) -> Apply:
        return _of(module, train)

    def variables() -> Any:
        called = SimpleNamespace(init=lambda key, x: module.init(key, *x, train=False))
        return jax.tree.map(_doubled, networks.weights(called, 0, inputs(1)))  # pyright: ignore[reportArgumentType]

    def resized(graph: jp.ChannelGraph, keep: Keep, train: bool) -> tuple[Apply, bool]:
        given = overrides and overrides(jp.widths(graph, keep))
        small = jp.linen.resize(module, graph, keep, overrides=given)
        return _of(small, train), bool(small.follows)

    return Network(
        name=name,
        applied=applied,
        variables=variables,
        inputs=inputs,
        resized=None if narrow_only else resized,
        native=native and (lambda widths, train: _of(native(widths), train)),
        **stated,
    )


def function(
    name: str, fn: Callable[..., Any], variables: Callable[[], Any], inputs: Inputs, **stated: Any
) -> Network:
    """Returns the `Network` of `fn(variables, *inputs)`, which reads all sizes from shapes."""

    def apply(v: Any, x: Any) -> Any:
        return fn(v, *x), {}

    return Network(
        name=name,
        applied=lambda _train: apply,
        variables=lambda: jax.tree.map(_doubled, variables()),
        inputs=inputs,
        resized=lambda _graph, _keep, _train: (apply, True),
        **stated,
    )


def _of(module: nn.Module, train: bool) -> Apply:
    mutable = ["batch_stats"] if train else []
    return lambda v, x: module.apply(v, *x, train=train, mutable=mutable)


def _doubled(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float64) if np.issubdtype(leaf.dtype, np.floating) else leaf


def normal(*shape: int) -> Inputs:
    """Returns inputs of one normal array: the batch size, then `shape`."""
    return lambda batch: (np.random.default_rng(1).normal(size=(batch, *shape)),)


def check(network: Network) -> None:
    """Checks a network in eval mode, and in train mode where it trains.

    Nothing in it is unknown. The groups, the frozen axes and the inexact groups are those that it
    states, at any batch size. Masked, narrowed and resized it gives the same outputs, statistics
    and gradients, and its closed-form costs are those of a fresh trace of the small network.
    """
    with jax.enable_x64(True):
        variables = network.variables()
        for train in (False, True) if "batch_stats" in variables else (False,):
            graph = traced(network, variables, network.inputs(1), train=train)
            check_findings(network, graph)
            keep = chosen(graph)
            small = cut(network, graph, keep, train=train)
            check_runs(network, graph, variables, keep, small, train=train)
            if not train:
                check_other_shapes(network, graph, variables)
                check_costs(graph, keep, small[0])


def cut(network: Network, graph: jp.ChannelGraph, keep: Keep, *, train: bool) -> tuple[Apply, bool]:
    """Returns the resized network, or the narrow one where there is no other."""
    if network.resized is None:
        return jp.narrow(network.applied(train), graph, keep), False
    return network.resized(graph, keep, train)


def check_other_shapes(network: Network, graph: jp.ChannelGraph, variables: Any) -> None:
    """Checks that another batch size, with other sizes of the inputs, gives the same graph."""
    inputs = (network.elsewhere or network.inputs)(256)
    check_same(graph, traced(network, variables, inputs, train=False))


def traced(network: Network, variables: Any, inputs: Any, *, train: bool) -> jp.ChannelGraph:
    """Returns the channel graph at the shapes of the inputs; an unknown primitive is an error."""
    shapes = jax.tree.map(_shape, (variables, inputs))
    return jp.trace(network.applied(train), *shapes, strict=True)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def chosen(graph: jp.ChannelGraph, share: float = 0.4) -> Keep:
    """Returns a keep of `share` of each group, at least one channel, in no order."""
    random = np.random.default_rng(3)
    return {
        name: random.permutation(group.size) < max(group.least, round(share * group.size))
        for name, group in graph.groups.items()
    }


def check_findings(network: Network, graph: jp.ChannelGraph) -> None:
    """Checks the groups, what is frozen and why, and what is inexact and why."""
    sizes = {name: group.size for name, group in graph.groups.items()}
    assert sizes == network.groups, sizes
    check_frozen(network, graph)
    reasons = {name: g.inexact for name, g in graph.groups.items() if g.inexact is not None}
    assert reasons.keys() == network.inexact.keys(), reasons
    for name, why in network.inexact.items():
        assert why in reasons[name], reasons[name]


def check_frozen(network: Network, graph: jp.ChannelGraph) -> None:
    """Checks that what is frozen is what the network states, and nothing that it states is free."""
    unseen = {(why, place) for why, places in network.frozen.items() for place in places}
    stated = set(unseen)
    for item in graph.frozen:
        if item.reason == "window of a convolution":
            continue
        here = f"{item.path.removeprefix('params/')} {item.axis}"
        fits = {(why, p) for why, p in stated if item.reason.startswith(why) and fnmatch(here, p)}
        assert fits, f"{here} is frozen: {item.reason}, at {item.place}"
        unseen -= fits
    assert not unseen, f"stated, but not frozen: {unseen}"


def check_same(graph: jp.ChannelGraph, other: jp.ChannelGraph) -> None:
    """Checks that two traces of one function say the same of its variables."""

    def said(graph: jp.ChannelGraph) -> Any:
        groups = {
            name: (
                group.size,
                group.inexact is None,
                [(s.path, s.axis, s.role) for s in group.slots],
            )
            for name, group in graph.groups.items()
        }
        return groups, [(item.path, item.axis, item.size) for item in graph.frozen]

    assert said(other) == said(graph)


def check_runs(
    network: Network,
    graph: jp.ChannelGraph,
    variables: Any,
    keep: Keep,
    small: tuple[Apply, bool],
    *,
    train: bool,
) -> None:
    """Checks the outputs, statistics and gradients of the masked, narrow and resized network.

    `small` is the network at `keep`; where groups are inexact, the exact ones are cut alone too.
    """
    exact = {name: kept for name, kept in keep.items() if graph.groups[name].inexact is None}
    apply, variables_of = network.applied(train), functools.partial(jp.slice, graph, variables)
    runs = {
        "narrow": (jp.narrow(apply, graph, exact), variables_of(exact)),
        "masked": (apply, jp.mask(graph, variables, exact)),
    }
    if network.resized is not None and len(exact) == len(keep):
        add_resized(runs, "exact", small, apply, graph, keep, variables)
    elif network.resized is not None:
        resized = network.resized(graph, exact, train)
        add_resized(runs, "exact", resized, apply, graph, exact, variables)
        add_resized(runs, "all", small, apply, graph, keep, variables)
        if network.native is not None:
            native = network.native(jp.widths(graph, keep), train)
            runs["all following"] = native, variables_of(keep)
    found = measured(runs, network.inputs(2))
    found["masked"]["variables"] = jp.slice(graph, found["masked"]["variables"], exact)
    for name in runs:
        other = f"{name.split()[0]} following"
        other = other if " " in name and other in runs else "narrow"
        laws.assert_close(found[name], found[other], what=f"{name} against {other}")


def add_resized(
    runs: dict[str, tuple[Apply, Any]],
    label: str,
    resized: tuple[Apply, bool],
    apply: Apply,
    graph: jp.ChannelGraph,
    keep: Keep,
    variables: Any,
) -> None:
    """Adds the resized network, and what else it is compared with than the narrow one.

    That is `narrow` with the constants that follow in it, or of the inexact groups too.
    """
    small, (run, follows) = jp.slice(graph, variables, keep), resized
    runs[f"{label} resized"] = run, small
    if follows or label != "exact":
        runs[f"{label} following"] = following(apply, graph, keep, run), small


def measured(runs: Mapping[str, tuple[Apply, Any]], inputs: Any) -> dict[str, Any]:
    """Returns the outputs, statistics and gradients of every run, in one compiled program."""

    def every(variables: Any, inputs: Any) -> Any:
        return {
            name: laws.measured(_raveled(apply), variables[name], inputs)
            for name, (apply, _) in runs.items()
        }

    compiled = jax.jit(every)
    return jax.device_get(compiled({name: v for name, (_, v) in runs.items()}, inputs))


def _raveled(apply: Apply) -> Apply:
    """Returns `apply` with all outputs in one vector."""

    def raveled(v: Any, x: Any) -> Any:
        outputs, updates = apply(v, x)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(outputs)]), updates

    return raveled


def check_costs(graph: jp.ChannelGraph, keep: Keep, small: Apply) -> None:
    """Checks the closed forms of the costs against a fresh trace of the small network."""
    fresh = jp.trace(small, jp.slice(graph, graph.abstract, keep), *graph.inputs)
    for cost in (
        jp.cost.macs,
        jp.cost.params,
        jp.cost.weights,
        jp.cost.activation_bytes,
        jp.cost.peak_memory,
    ):
        assert cost(fresh) == cost(graph, keep), cost.__name__
