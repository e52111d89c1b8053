"""Random keys and what is drawn from them: what is drawn is free, what makes a key is not."""

from collections.abc import Sequence
from typing import Any

from jaxprune.program import jaxpr, reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    NONE,
    Axes,
    Exactness,
    Known,
    Rule,
    Size,
    described,
    freeze,
    frozen,
    unify,
    unknown,
)
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Trait


def keys(op: Op) -> list[Axes]:
    """Keys share the leading axes of what they are made from; the rest is frozen."""
    rank = len(op.out_shapes[0])
    freeze(op.ins[0][rank:], reasons.INSIDE_A_KEY, op)
    return [list(op.ins[0][:rank])]


def key_data(op: Op) -> list[Axes]:
    """The numbers inside of a key are frozen."""
    rest = op.out_shapes[0][len(op.ins[0]) :]
    return [[*op.ins[0], *frozen(rest, reasons.INSIDE_A_KEY, op)]]


def fold_in(op: Op) -> list[Axes]:
    """A key for every pair of a key and a number; single ones go with all of the others."""
    shaped = [axes for axes in op.ins if axes]
    out: Axes = []
    for choices in zip(*shaped, strict=True):
        first, *others = [space for space in choices if space.size != 1] or choices[:1]
        unify(op, others, [first] * len(others))
        out.append(first)
    return [out]


def draw(op: Op) -> list[Axes]:
    """For every key new axes: bits, or more keys."""
    _alone(op)
    taken = op.ins[0]
    return [[*taken, *(ax.fresh(n) for n in op.out_shapes[0][len(taken) :])]]


def draw_params(op: Op, size: Size) -> dict[str, Any]:
    """As many as are kept."""
    return {"shape": tuple(size(space) for space in drawn(op))}


def gamma(op: Op) -> list[Axes]:
    """One number for every parameter; the leading axes of the parameters are those of the keys."""
    _alone(op)
    taken, parameters = op.ins
    unify(op, taken, parameters[: len(taken)])
    return [list(parameters)]


def gamma_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """At zero the logarithm is infinite, and so is the derivative."""
    undefined = frozenset().union(*known[1].zeros)
    exact.undefined(undefined, op, 1, reasons.STEEP)
    return [unknown(op.out_shapes[0])]


def generate(op: Op) -> list[Axes]:
    """Bits of new axes, and the next state."""
    freeze(op.ins[0], reasons.INSIDE_A_KEY, op)
    state, bits = op.out_shapes
    return [frozen(state, reasons.INSIDE_A_KEY, op), [ax.fresh(n) for n in bits]]


def generate_params(op: Op, size: Size) -> dict[str, Any]:
    """As many bits as are kept."""
    return {"shape": tuple(map(size, drawn(op)))}


def drawn(op: Op) -> Sequence[Space]:
    """Returns the axes of what a draw gives that are not those of its keys."""
    return op.outs[-1] if len(op.outs) > 1 else op.outs[0][len(op.ins[0]) :]


def _alone(op: Op) -> None:
    """Freezes the axes of keys that do not draw by themselves."""
    if not jaxpr.draws_alone(op.eqn.invars[0]):
        freeze(op.ins[0], reasons.JOINT_KEYS, op)


_DRAWS = "random_bits random_split random_gamma rng_bit_generator"
_KEYS = "random_seed random_wrap random_clone".split()

RULES = described(
    {name: Rule(keys, values=NONE) for name in _KEYS}
    | {
        "random_unwrap": Rule(key_data, values=NONE),
        "random_fold_in": Rule(fold_in, values=NONE),
        "random_bits": Rule(draw, params=draw_params, values=NONE),
        "random_split": Rule(draw, params=draw_params, values=NONE),
        "random_gamma": Rule(gamma, gamma_zeros, values=NONE),
        "rng_bit_generator": Rule(generate, params=generate_params, values=NONE),
    },
    {_DRAWS: Trait.DRAWS},
    every=Trait.RANDOM | Trait.APART,
)
