"""Checks of the laws of pruning on one network; all run in double precision.

In eval and in train mode, the masked, the narrowed and the resized network have the same outputs,
the same updated statistics, and the same gradients of what is kept. Where a norm divides by a
width, the resized network is that which one would write by hand for the kept widths.
"""

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
import networks
from blocks import Blocks
from jaxprune.arguments.paths import flatten
from jaxprune.running.verify import following
from narrowed import Narrowed, narrowed

NORMS = {"LayerNorm", "RMSNorm", "GroupNorm"}
"""Blocks that divide by a width: `narrow` keeps that constant, a narrower network does not."""

DIVIDING = {"Split", "Shuffle"}
"""Blocks whose code divides an axis in two: it cannot make uneven halves of a narrow input."""

Keep = Mapping[str, np.ndarray]
Apply = Callable[[Any, Any], Any]


EXACT = (
    {} if "xla_cpu_max_isa" in os.environ["XLA_FLAGS"] else {"xla_backend_optimization_level": 3}
)
"""Options under which a maximum equals one of its operands.

Unoptimized, XLA computes the operand of a maximum anew for its gradient, rounded otherwise where a
product and a sum are one instruction, so that no entry equals it and the gradient is 0 / 0.
"""


@functools.cache
def fast(spec: Blocks) -> dict[str, Any]:
    """Returns options of the compiler where the unoptimized program will not do; see `EXACT`."""
    return EXACT if "reduce=max" in repr(spec) else {}


class Traced(NamedTuple):
    """A network in one mode, with its variables and its input, in double precision."""

    spec: Blocks
    module: networks.Network
    fn: Apply
    graph: jp.ChannelGraph
    variables: Any
    x: np.ndarray


def applied(module: Any, *, train: bool) -> Apply:
    """Returns `(variables, x) -> (logits, updated statistics)`."""
    mutable = ["batch_stats"] if train else []
    rngs = {"dropout": jax.random.key(7)}
    return lambda v, x: module.apply(v, x, train=train, mutable=mutable, rngs=rngs)


@functools.cache
def variables_of(spec: Blocks) -> Any:
    """Returns the variables of the network of `spec` in double precision."""
    return jax.tree.map(np.float64, networks.weights(networks.Network(spec), seed=0))


@functools.cache
def traced(spec: Blocks, *, train: bool) -> Traced:
    """Returns the network of `spec`, traced on shapes alone."""
    module, variables = networks.Network(spec), variables_of(spec)
    x = networks.images(seed=1).astype(np.float64)
    fn = applied(module, train=train)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (variables, x))
    return Traced(spec, module, fn, jp.trace(fn, *shapes), variables, x)


def drawn(random: np.random.Generator, group: jp.Group, count: int) -> np.ndarray:
    """Returns `count` channels of a group, in no order, others in every layer of a stack."""
    chosen = np.broadcast_to(np.arange(group.size) < count, group.shape)
    return random.permuted(chosen, axis=-1)


def free_keep(graph: jp.ChannelGraph, seed: int) -> Keep:
    """Returns one to all channels of each group."""
    random = np.random.default_rng(seed)
    return {
        name: drawn(random, group, int(random.integers(1, group.size + 1)))
        for name, group in graph.groups.items()
    }


def even_keep(graph: jp.ChannelGraph, seed: int) -> Keep:
    """Returns the same share of each group: equal halves stay equal halves."""
    random = np.random.default_rng(seed)
    return {
        name: drawn(random, group, math.ceil(0.6 * group.size))
        for name, group in graph.groups.items()
    }


def exact(graph: jp.ChannelGraph, keep: Keep) -> Keep:
    """Returns the part of `keep` that masking stands for."""
    return {name: value for name, value in keep.items() if name not in inexact(graph)}


def inexact(graph: jp.ChannelGraph) -> set[str]:
    """Returns the groups that masking does not stand for."""
    return {name for name, group in graph.groups.items() if group.inexact is not None}


def measured(apply: Apply, variables: Any, x: Any) -> dict[str, Any]:
    """Returns the logits, and in the form of the variables the gradients and the statistics."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = apply({**variables, "params": params}, x)
        direction = jnp.cos(jnp.arange(logits.size, dtype=logits.dtype)).reshape(logits.shape)
        return jnp.vdot(direction, logits), (logits, updates)

    gradients, (logits, updates) = jax.grad(loss, has_aux=True)(variables["params"])
    return {"logits": logits, "variables": {**variables, "params": gradients, **updates}}


def resized(
    network: Traced, keep: Keep, written: Narrowed, *, strict: bool
) -> jp.linen.Resized | None:
    """Returns the resized module, or None where the keep is refused as it must be.

    Numbers in the code of a block must be refused where the keep changes them, uneven halves may,
    unless `strict`. None too where it draws numbers of its own.
    """
    may_refuse = written.hard_coded or (networks.blocks(network.spec) & DIVIDING and not strict)
    try:
        module = jp.linen.resize(network.module, network.graph, keep)
    except jp.errors.ResizeError:
        if may_refuse:
            return None
        raise
    assert not written.hard_coded, f"resize did not refuse {written}"
    return None if module.draws else module


def runs(network: Traced, keep: Keep, *, train: bool, strict: bool) -> dict[str, tuple[Apply, Any]]:
    """Returns {what runs: (function, variables)}: the full network under masks and small ones.

    The resized network is compared with `narrow`, which is given the constants that follow a width,
    and behind norms with the network written by hand. The whole keep is resized too where some of
    it is inexact.
    """
    graph, variables = network.graph, network.variables
    part = exact(graph, keep)
    narrow = jp.narrow(network.fn, graph, part)
    found = {
        "exact masked": (network.fn, masked(network, part)),
        "exact narrow": (narrow, jp.slice(graph, variables, part)),
    }
    for label, kept in {"exact": part, "all": keep}.items():
        if label == "all" and len(part) == len(keep):
            continue
        small = jp.slice(graph, variables, kept)
        written = narrowed(network.spec, small, entries(graph, kept))
        module = resized(network, kept, written, strict=strict)
        if module is None:
            continue
        apply = applied(module, train=train)
        found[f"{label} resized"] = apply, small
        if label == "all" or module.follows:
            found[f"{label} following"] = following(network.fn, graph, kept, apply), small
        if networks.blocks(network.spec) & NORMS and written.spec is not None:
            by_hand = networks.Network(written.spec)
            found[f"{label} written"] = applied(by_hand, train=train), small
    return found


def results(network: Traced, functions: Mapping[str, tuple[Apply, Any]]) -> dict[str, Any]:
    """Returns what is `measured` of each function with its variables, by one program."""
    compiled = jax.jit(
        lambda variables, x: {
            name: measured(apply, variables[name], x) for name, (apply, _) in functions.items()
        },
        compiler_options=fast(network.spec),
    )
    return jax.device_get(compiled({name: v for name, (_, v) in functions.items()}, network.x))


def check_agreement(network: Traced, keep: Keep, *, train: bool, strict: bool) -> None:
    """Checks that all ways to run the pruned network agree."""
    found = results(network, runs(network, keep, train=train, strict=strict))
    full = found["exact masked"]["variables"]
    found["exact masked"]["variables"] = jp.slice(network.graph, full, exact(network.graph, keep))
    for name, result in found.items():
        label = name.split()[0]
        other = f"{label} following" if f"{label} following" in found else "exact narrow"
        other = "exact narrow" if name == "exact masked" else other
        if name != "exact narrow":
            assert_close(result, found[other], what=f"{name} against {other}")


def check_written(network: Traced, keep: Keep, written: Blocks, *, train: bool) -> None:
    """Checks that the resized network is the `written` one, and that `narrowed` reads it so."""
    small = jp.slice(network.graph, network.variables, keep)
    assert narrowed(network.spec, small, entries(network.graph, keep)) == (written, frozenset())
    module = jp.linen.resize(network.module, network.graph, keep)
    functions = {
        "resized": (applied(module, train=train), small),
        "written": (applied(networks.Network(written), train=train), small),
    }
    found = results(network, functions)
    assert_close(found["resized"], found["written"], what="resized against written by hand")


def assert_close(actual: Any, expected: Any, *, what: str) -> None:
    """Checks two trees to 1e-5, relative to the largest entry of each leaf."""
    actual, expected = flatten(actual)[0], flatten(expected)[0]
    assert actual.keys() == expected.keys(), what
    for path, value in expected.items():
        scale = max(np.abs(value).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(
            actual[path], value, rtol=1e-5, atol=1e-6 * scale, err_msg=f"{what}, {path}"
        )


def check_values(network: Traced, keep: Keep) -> None:
    """Checks what slicing and masking do to values: no network runs."""
    graph, variables = network.graph, network.variables
    small, zeroed = jp.slice(graph, variables, keep), masked(network, keep)
    poisoned = masked(network, keep, pruned=np.nan)
    assert_same(jp.slice(graph, poisoned, keep), small)
    assert_same(jp.mask(graph, poisoned, keep), zeroed)
    assert_same(jp.unslice(graph, small, keep), zeroed)
    assert_same(jp.unslice(graph, small, keep, into=poisoned), poisoned)


def masked(network: Traced, keep: Keep, *, pruned: float = 0.0) -> Any:
    """Returns the full variables with `pruned` in the place of every pruned entry."""
    return jax.tree.map(
        lambda kept, leaf: np.where(kept, leaf, pruned),
        entries(network.graph, keep),
        network.variables,
    )


def entries(graph: jp.ChannelGraph, keep: Keep) -> Any:
    """Returns what is kept of the variables, from the slots alone: a tree of bool."""
    kept = {path: np.ones(leaf.shape, bool) for path, leaf in graph.variables.items()}
    for name, mask in keep.items():
        for slot in graph.groups[name].slots:
            for layer, chosen in enumerate(np.atleast_2d(mask)):
                leaf = np.moveaxis(kept[slot.path], slot.axis, 0)
                if slot.layer is not None:
                    leaf = np.moveaxis(kept[slot.path], (slot.layer, slot.axis), (0, 1))[layer]
                leaf[slot.positions[~chosen].ravel()] = False
    tree: dict[str, Any] = {}
    for path, leaf in kept.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = leaf
    return tree


def assert_same(actual: Any, expected: Any) -> None:
    """Checks two trees bit for bit."""
    actual, expected = flatten(actual)[0], flatten(expected)[0]
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path, strict=True)


def check_identity(network: Traced, *, train: bool) -> None:
    """Checks that removing nothing changes no bit of the variables, the outputs, the statistics."""
    graph, variables = network.graph, network.variables
    whole = {name: np.ones(group.shape, bool) for name, group in graph.groups.items()}
    assert_same(jp.slice(graph, variables, whole), variables)
    assert_same(jp.mask(graph, variables, whole), variables)
    functions = {
        "full": network.fn,
        "narrow": jp.narrow(network.fn, graph, whole),
        "resized": applied(jp.linen.resize(network.module, graph, whole), train=train),
    }
    outputs = jax.jit(
        lambda v, x: {name: fn(v, x) for name, fn in functions.items()},
        compiler_options=fast(network.spec),
    )(variables, network.x)
    assert_same(outputs["narrow"], outputs["full"])
    assert_same(outputs["resized"], outputs["full"])


def check_laws(spec: Blocks, *, strict: bool = True) -> None:
    """Checks all laws on one network: uneven keeps in eval mode, even ones in train mode."""
    with jax.enable_x64(True):
        groups = [sizes(traced(spec, train=train).graph) for train in (False, True)]
        assert groups[0] == groups[1]
        for train, draw in ((False, free_keep), (True, even_keep)):
            network = traced(spec, train=train)
            keep = draw(network.graph, seed=2)
            check_values(network, keep)
            check_identity(network, train=train)
            check_agreement(network, keep, train=train, strict=train and strict)


def sizes(graph: jp.ChannelGraph) -> dict[str, tuple[int, ...]]:
    """Returns the shape of the keep of each group."""
    return {name: group.shape for name, group in graph.groups.items()}
