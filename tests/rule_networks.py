"""Cases for rules: small functions between variables, and what the rules make of them.

A case is a small function whose last operation is a primitive. Its operands are variables, its
results meet learned vectors, so that every axis that can be free is free.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune as jp

MARK = "operation of the case"
Feed = frozenset[int]
"""The operands that are shifted, so that they are not zero at pruned indices."""


class Case(NamedTuple):
    """A function that ends in one primitive.

    `forgets`: the groups whose zeros the rule need not see; `*` stands for all of them as soon as
    an operand is shifted. `local`: the primitive runs inside a shard_map. `grad`: derivatives too,
    also by a gain that all channels share.
    `eager`: what compiles slowly runs alone, not many times inside one program.
    `runs`: False where the CPU has no such primitive, so that only the spec is checked.
    """

    fn: Callable[..., Any]
    operands: tuple[jax.ShapeDtypeStruct, ...]
    spec: str
    forgets: str = ""
    local: bool = False
    grad: bool = False
    eager: bool = False
    runs: bool = True


class Seen(NamedTuple):
    """The traced network of a case under one feed, with what the rule said of the primitive."""

    net: Callable[..., Any]
    graph: jp.ChannelGraph
    op: Any
    results: list[Any]


def shapes(dtype: Any) -> Callable[..., jax.ShapeDtypeStruct]:
    """Returns `(*shape) -> ShapeDtypeStruct`."""
    return lambda *shape: jax.ShapeDtypeStruct(shape, dtype)


F, I, U, B, C = map(shapes, (jnp.float32, jnp.int32, jnp.uint32, jnp.bool_, jnp.complex64))  # noqa: E741


def shifted(x: jax.Array) -> jax.Array:
    """Returns a function of x that is not zero at zero and stays inside (0, 1)."""
    if x.dtype == jnp.bool_:
        return lax.bitwise_not(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x + jnp.ones((), x.dtype)
    step = 0.5 + 0.5j if jnp.issubdtype(x.dtype, jnp.complexfloating) else 0.5
    return (x + jnp.asarray(step, x.dtype)) / jnp.asarray(1.5, x.dtype)


def every(case: Case) -> Feed:
    """Returns the feed in which all operands are shifted."""
    return frozenset(range(len(case.operands)))


def feeds(case: Case) -> list[Feed]:
    """Returns no operand, all of them, and each alone."""
    singles = [frozenset({i}) for i in every(case)]
    return list(dict.fromkeys([frozenset(), every(case), *singles]))


def operands_of(case: Case, variables: Mapping[str, Any]) -> list[Any]:
    """Returns the operands among the variables."""
    return [variables[f"in{i}"] for i in range(len(case.operands))]


def fed(operands: Sequence[Any], feed: Feed) -> list[Any]:
    """Returns the operands, those of `feed` shifted."""
    return [shifted(x) if i in feed else x for i, x in enumerate(operands)]


def network(case: Case, feed: Feed) -> Callable[..., Any]:
    """Returns the case between operands that are variables and learned vectors."""

    def net(variables: Mapping[str, Any], one: Any) -> list[Any]:
        operands = operands_of(case, variables)
        if operands and operands[0].dtype != jnp.bool_:  # now it depends on the input
            operands[0] = operands[0] * lax.convert_element_type(one, operands[0].dtype)
        if "gain" in variables:
            operands[0] = operands[0] * variables["gain"]
        operands = fed(operands, feed)
        with jax.named_scope(MARK):
            outs = jax.tree.leaves(case.fn(*operands))
        return [
            weighted(y, [variables[f"out{i}_{k}"] for k in range(y.ndim)])
            for i, y in enumerate(outs)
        ]

    return net


def weighted(y: Any, vectors: Sequence[Any]) -> Any:
    """Returns the contraction of every axis of y with its vector."""
    y = plain(y)
    for vector in vectors:
        y = lax.dot_general(vector, y, (((0,), (0,)), ((), ())))
    return y


def plain(y: Any) -> Any:
    """Returns y as float32; keys as their data."""
    if jnp.issubdtype(y.dtype, jax.dtypes.prng_key):
        y = jax.random.key_data(y)
        y = lax.reduce_or(y, (y.ndim - 1,))
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        y = lax.real(y) + 2 * lax.imag(y)
    return lax.convert_element_type(y, jnp.float32)


def values_of(case: Case) -> dict[str, np.ndarray]:
    """Returns random values for the operands and the learned vectors of a case."""
    random = np.random.default_rng(0)
    outs = jax.tree.leaves(jax.eval_shape(case.fn, *case.operands))
    found = {f"in{i}": draw(random, x) for i, x in enumerate(case.operands)}
    if case.grad:  # the gradient of what stays hangs on what is pruned
        found["gain"] = np.float32(1)
    for i, y in enumerate(outs):
        for k, n in enumerate(y.shape):
            found[f"out{i}_{k}"] = random.uniform(0.5, 1.5, n).astype(np.float32)
    return found


def draw(random: np.random.Generator, x: jax.ShapeDtypeStruct) -> np.ndarray:
    """Returns values inside (0, 1), small positive integers, or one of two truths."""
    if x.dtype == jnp.bool_:
        return np.ones(x.shape, bool)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return random.integers(1, 5, x.shape).astype(x.dtype)
    return np.asarray(random.uniform(0.2, 0.9, x.shape)).astype(x.dtype)


def see(name: str, case: Case, feed: Feed, rules: Mapping[str, jp.Rule]) -> Seen:
    """Returns the traced network of a case, with what the rule said of the last operation."""
    said: list[tuple[Any, list[Any]]] = []
    rule = rules[name]

    def zeros(op: Any, known: list[Any], exact: Any) -> list[Any]:
        results = rule.zeros(op, known, exact)
        if MARK in op.place and not exact.may:
            said.append((op, results))
        return results

    net = network(case, feed)
    variables = values_of(case)
    graph = jp.trace(
        net, variables, np.float32(1), rules={**rules, name: rule._replace(zeros=zeros)}
    )
    assert said, f"{name}: the case does not produce the primitive"
    return Seen(net, graph, *(said[-1] if not case.local else said[0]))


def observe(name: str, case: Case, rules: Mapping[str, jp.Rule] = jp.RULES) -> dict[Feed, Seen]:
    """Returns what the rules make of a case under every feed."""
    return {feed: see(name, case, feed, rules) for feed in feeds(case)}
