"""Calls and control flow: the rules recurse into the inner programs."""

from typing import Any

from jaxprune.program import reasons
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    described,
    either,
    freeze,
    frozen_axis,
    unify,
)
from jaxprune.program.spaces import Atom
from jaxprune.program.traits import Form, Trait


def call(op: Op) -> list[Axes]:
    """A call is its program."""
    return op.call(op.params["program"], op.ins, op.sources)


def call_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A call is its program."""
    return exact.run(op.inner[0], known)


def custom_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A call is its program, and a derivative of its own is another one."""
    return exact.derived(op, known)


def scan(op: Op) -> list[Axes]:
    """The carry is one space for all steps; the leading axis of what is stacked is frozen."""
    n, m = op.params["num_consts"], op.params["num_carry"]
    stacked = op.ins[n + m :]
    freeze([x[0] for x in stacked], reasons.LAYERS, op)
    length = op.params["length"]
    inner = [*op.ins[: n + m], *(x[1:] for x in stacked)]
    sources = [*op.sources[:n], *[None] * m, *op.sources[n + m :]]
    outs = op.call(op.params["program"], inner, sources, repeats=length)
    for before, after in zip(op.ins[n : n + m], outs[:m], strict=True):
        unify(op, before, after)
    ys = [[frozen_axis(length, reasons.LAYERS, op), *y] for y in outs[m:]]
    return [*(list(x) for x in op.ins[n : n + m]), *ys]


def scan_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """The carry is zero where it is zero before and after every step."""
    n, m = op.params["num_consts"], op.params["num_carry"]
    inner = [*known[: n + m], *(_row(item) for item in known[n + m :])]
    inner = _settle(op.inner[0], inner, n, m, exact)
    outs = exact.run(op.inner[0], inner)
    none: frozenset[Atom] = frozenset()
    return [*inner[n : n + m], *(Known((none, *y.zeros)) for y in outs[m:])]


def _row(item: Known) -> Known:
    return Known(item.zeros[1:], item.value)


def _settle(walk: Any, known: list[Known], n: int, m: int, exact: Exactness) -> list[Known]:
    """Weakens what is known of the carry until a step keeps it."""
    while True:
        outs = exact.peek(walk, known)
        carry = [either(a, b, exact) for a, b in zip(known[n : n + m], outs[:m], strict=True)]
        if carry == known[n : n + m]:
            return known
        known = [*known[:n], *carry, *known[n + m :]]


def while_(op: Op) -> list[Axes]:
    """The carry is one space for all steps."""
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
    carry = op.ins[n + m :]
    sources = [None] * len(carry)
    op.call(op.params["cond_jaxpr"], [*op.ins[:n], *carry], [*op.sources[:n], *sources])
    body = [*op.ins[n : n + m], *carry]
    outs = op.call(op.params["body_jaxpr"], body, [*op.sources[n : n + m], *sources])
    for before, after in zip(carry, outs, strict=True):
        unify(op, before, after)
    return [list(x) for x in carry]


def while_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """The carry is zero where it is zero before and after every step."""
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
    body = _settle(op.inner[1], known[n:], m, len(known) - n - m, exact)
    exact.run(op.inner[0], [*known[:n], *body[m:]])
    exact.run(op.inner[1], body)
    return body[m:]


def cond(op: Op) -> list[Axes]:
    """All branches share their results."""
    outs = op.call(op.params["branches"], op.ins[1:], op.sources[1:])
    for other in outs[1:]:
        for a, b in zip(outs[0], other, strict=True):
            unify(op, a, b)
    return outs[0]


def cond_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where every branch is."""
    first, *rest = (exact.run(walk, known[1:]) for walk in op.inner)
    for outs in rest:
        first = [either(a, b, exact) for a, b in zip(first, outs, strict=True)]
    return first


def shard_map(op: Op) -> list[Axes]:
    """Axes that the mesh divides are frozen; the others are those of the inner program."""
    program = op.params["program"]
    shapes = [var.aval.shape for var in program.invars]
    inner = [_local(op, axes, shape) for axes, shape in zip(op.ins, shapes, strict=True)]
    outs = op.call(program, inner, op.sources)
    return [_local(op, axes, shape) for axes, shape in zip(outs, op.out_shapes, strict=True)]


def _local(op: Op, axes: Axes, shape: tuple[int, ...]) -> Axes:
    """Axes of an array on the other side of the mesh."""
    cut = [space for space, size in zip(axes, shape, strict=True) if space.size != size]
    freeze(cut, reasons.DIVIDED, op)
    pairs = zip(axes, shape, strict=True)
    return [s if s.size == size else frozen_axis(size, reasons.DIVIDED, op) for s, size in pairs]


def shard_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Frozen axes hold no group, so zeros pass."""
    return exact.run(op.inner[0], known)


RULES = described(
    {
        "jit": Rule(call, call_zeros, form=Form.CALL),
        "closed_call": Rule(call, call_zeros, form=Form.CALL),
        "remat": Rule(call, call_zeros, form=Form.REMAT),
        "custom_jvp_call": Rule(call, custom_zeros, form=Form.CUSTOM_JVP),
        "custom_vjp_call": Rule(call, custom_zeros, form=Form.CUSTOM_VJP),
        "scan": Rule(scan, scan_zeros, form=Form.SCAN),
        "while": Rule(while_, while_zeros, form=Form.WHILE),
        "cond": Rule(cond, cond_zeros, form=Form.COND),
        "shard_map": Rule(shard_map, shard_zeros, form=Form.SHARD_MAP),
    },
    {},
    every=Trait.APART,
)
