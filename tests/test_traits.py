"""What rules say of values, held against the primitives themselves: every trait, on every case."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

import jaxprune as jp
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.axis_map import keeps_order
from jaxprune.program.traits import Trait
from rule_cases import CASES
from rule_networks import Case

Values = Sequence[Any]


class Called(NamedTuple):
    """A primitive, as a case calls it."""

    op: Op
    ins: Values

    def __call__(self, *ins: Any) -> list[np.ndarray]:
        with jaxpr.context(self.op.eqn):
            return [*map(np.asarray, jaxpr.bind(self.op.eqn, ins, self.op.eqn.params))]

    def changed(self, change: Callable[[Any], Any], which: Sequence[int]) -> list[np.ndarray]:
        """The results where the real operands `which` are changed."""
        return self(*(change(x) if i in which and real(x) else x for i, x in enumerate(self.ins)))


def real(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def drawn(shape: jax.ShapeDtypeStruct, rng: np.random.Generator) -> Any:
    """Values between zero and one; of integers few, so that they are indices."""
    if shape.dtype == jnp.bool_ or jnp.issubdtype(shape.dtype, jnp.integer):
        return jnp.asarray(rng.integers(0, 2, shape.shape), shape.dtype)
    values = rng.uniform(0.1, 0.9, shape.shape)
    complex_ = jnp.issubdtype(shape.dtype, jnp.complexfloating)
    return jnp.asarray(values + 0.5j * values if complex_ else values, shape.dtype)


def calls(name: str, case: Case) -> Iterator[Called]:
    """Runs a case; yields the primitive wherever it is met."""
    rng = np.random.default_rng(0)
    args = [drawn(shape, rng) for shape in case.operands]
    program, _ = jaxpr.trace(case.fn, *args)
    env = dict(zip(program.invars, args, strict=True))
    env.update(zip(program.constvars, program.consts, strict=True))
    for eqn in program.eqns:
        ins = [
            jnp.asarray(jaxpr.literal(x), x.aval.dtype) if jaxpr.is_literal(x) else env[x]
            for x in eqn.invars
        ]
        op = Op(eqn, rules=jp.RULES)
        if op.name == name:
            yield Called(op, ins)
        env.update(zip(eqn.outvars, jaxpr.bind(eqn, ins, eqn.params), strict=True))


def every(op: Op) -> range:
    return range(len(op.eqn.invars))


def twice(x: Any) -> Any:
    return 2 * x


def close(found: Values, wanted: Values, tolerance: float = 1e-4) -> None:
    for a, b in zip(found, wanted, strict=True):
        tolerance = 1e-2 if np.result_type(a) == jnp.bfloat16 else tolerance
        np.testing.assert_allclose(np.asarray(a, complex), np.asarray(b, complex), tolerance, 1e-5)


def precision(call: Called) -> float:
    return 1e-3 if "mantissa_bits" in call.op.params else 1e-4


def within(found: Values, offered: Values) -> None:
    """Every entry of the results is one of the offered."""
    entries = np.concatenate([np.ravel(np.asarray(x)) for x in offered])
    assert all(np.isin(out, entries).all() for out in found)


def as_is(call: Called) -> None:
    outs = call(*call.ins)
    wanted = [np.asarray(x).astype(y.dtype) for x, y in zip(call.ins, outs, strict=False)]
    close(outs, wanted, precision(call))


def moves(call: Called) -> None:
    assert len(call.ins) == 1
    within(call(*call.ins), call.ins)


def ordered(call: Called) -> None:
    if not keeps_order(call.op):
        return
    (out,), (x,) = call(*call.ins), map(np.asarray, call.ins)
    if out.size == x.size:
        assert np.array_equal(out.ravel(), x.ravel())


def broadcasts(call: Called) -> None:
    (out,) = call(*call.ins)
    assert out.size >= np.size(call.ins[0])


def parts(call: Called) -> None:
    within(call(*call.ins), call.ins)


def linear(call: Called) -> None:
    if not all(map(real, call.ins)):
        return
    other = [jnp.roll(x, 1) * 0.5 for x in call.ins]
    total = call(*(a + b for a, b in zip(call.ins, other, strict=True)))
    sums = [a + b for a, b in zip(call(*call.ins), call(*other), strict=True)]
    close(total, sums, precision(call))


def writes(call: Called) -> None:
    """Linear in what is there and what is written together."""
    where = range(len(call.ins))[call.op.rule.values]
    if not all(real(call.ins[i]) for i in where):
        return
    other = [jnp.roll(x, 1) * 0.5 if i in where else x for i, x in enumerate(call.ins)]
    pairs = enumerate(zip(call.ins, other, strict=True))
    both = [a + b if i in where else a for i, (a, b) in pairs]
    sums = [a + b for a, b in zip(call(*call.ins), call(*other), strict=True)]
    close(call(*both), sums, precision(call))


def homogeneous(call: Called) -> None:
    if call.op.params.get("fill_value"):  # `pruning.rescale` asks for it
        return
    close(call.changed(twice, [0]), [2 * y if real(call.ins[0]) else y for y in call(*call.ins)])


def together(call: Called) -> None:
    which = every(call.op)[call.op.rule.values]
    factor = 2 if all(real(call.ins[i]) for i in which) else None
    if factor:
        close(call.changed(twice, which), [2 * y for y in call(*call.ins)])


def multiplies(call: Called) -> None:
    if all(map(real, call.ins)):
        wanted = [2 * y for y in call(*call.ins)]
        close(call.changed(twice, [0]), wanted)
        close(call.changed(twice, [1]), wanted)


def divides(call: Called) -> None:
    if all(map(real, call.ins)):
        close(call.changed(twice, [0]), [2 * y for y in call(*call.ins)])
        close(call.changed(twice, [1]), [y / 2 for y in call(*call.ins)])


def compares(call: Called) -> None:
    close(call.changed(twice, every(call.op)), call(*call.ins))


def chooses(call: Called) -> None:
    within(call(*call.ins), call.ins[call.op.rule.values])


def maximum(call: Called) -> None:
    for out in call(*call.ins):
        within([out[np.isfinite(out)]], call.ins)


def counts(call: Called) -> None:
    (out,) = call(*call.ins)
    along = np.moveaxis(out, call.op.params["dimension"], -1)
    assert (along == np.arange(along.shape[-1])).all()


def starts(call: Called) -> None:
    """What is written is read again at the same starts, which may lie anywhere."""
    values = range(len(call.ins))[call.op.rule.values]
    for first in ([0] * np.ndim(call.ins[0]), [1] * np.ndim(call.ins[0])):
        ins = [*call.ins[: len(values)], *(jnp.asarray(i, jnp.int32) for i in first)]
        (out,), source = call(*ins), call.ins[0]
        part, whole = (call.ins[1], out) if len(values) == 2 else (out, source)
        sizes = zip(first, np.shape(part), np.shape(whole), strict=True)
        places = [min(i, size - length) for i, length, size in sizes]
        there = tuple(slice(i, i + n) for i, n in zip(places, np.shape(part), strict=True))
        np.testing.assert_array_equal(whole[there], part)


def looks_up(call: Called) -> None:
    if call.op.params.get("fill_value") is None:
        within(call(*call.ins), [call.ins[0]])


def entrywise(call: Called) -> None:
    """What one entry of an operand changes is that entry of the results."""
    for i, x in enumerate(call.ins):
        if not real(x) or not np.ndim(x) or np.size(x) < 2:
            continue
        place = tuple(np.array(np.shape(x)) - 1)
        ins = [*call.ins]
        ins[i] = x.at[place].add(0.25)
        for before, after in zip(call(*call.ins), call(*ins), strict=True):
            if before.shape != np.shape(x):  # of another operand
                assert Trait.AS_IS in call.op.traits
                continue
            apart = ~((before == after) | ((before != before) & (after != after)))
            apart[place] = False
            assert not apart.any()


CHECKS: dict[Trait, Callable[[Called], None]] = {
    Trait.AS_IS: as_is,
    Trait.MOVES: moves,
    Trait.ORDERED: ordered,
    Trait.BROADCASTS: broadcasts,
    Trait.PARTS: parts,
    Trait.LINEAR: linear,
    Trait.HOMOGENEOUS: homogeneous,
    Trait.TOGETHER: together,
    Trait.MULTIPLIES: multiplies,
    Trait.DIVIDES: divides,
    Trait.COMPARES: compares,
    Trait.CHOOSES: chooses,
    Trait.MAXIMUM: maximum,
    Trait.STARTS: starts,
    Trait.WRITES: writes,
    Trait.COUNTS: counts,
    Trait.LOOKS_UP: looks_up,
    Trait.ENTRYWISE: entrywise,
}
ELSEWHERE = {
    Trait.BOUNDS: "that a mean stays one: test_normalization",
    Trait.SUMS: "which axes a statistic loses: test_normalization",
    Trait.CONTRACTS: "the axes that meet: the oracle of the rules",
    Trait.UNCOUNTED: "that no cost has them: test_uncounted",
    Trait.RANDOM: "that no value of a key is in a result: test_draws",
    Trait.DRAWS: "that a draw at another size is another: test_draws",
    Trait.MARKS: "select_inputs alone: test_streams",
    Trait.APART: "that layers do not mix: test_stacks",
}
"""Traits that these checks cannot judge, and what does."""


@pytest.mark.parametrize("name", CASES)
def test_traits_hold_of_the_primitive(name: str) -> None:
    rule = jp.RULES[name]
    called = 0
    alone = [case for case in CASES[name] if case.runs and not case.local]
    for case in alone:
        for call in calls(name, case):
            called += 1
            for trait, check in CHECKS.items() if rule.form is None else ():
                if trait in rule.traits:
                    check(call)
            if rule.weights:
                terms = (w * np.asarray(x) for w, x in zip(rule.weights, call.ins, strict=True))
                close(call(*call.ins), [sum(terms)])
            if (power := rule.power(call.op)) is not None and real(call.ins[0]):
                positive = [abs(call.ins[0]) + 0.5, *call.ins[1:]]
                close(call(*positive), [np.asarray(positive[0]) ** power])
    assert called or not alone or not any(trait in rule.traits for trait in CHECKS)


def test_every_trait_is_checked() -> None:
    assert set(Trait) == CHECKS.keys() | ELSEWHERE.keys()
    assert not CHECKS.keys() & ELSEWHERE.keys()
    assert all(any(trait in rule.traits for rule in jp.RULES.values()) for trait in Trait)


VARIABLES = {"a": np.ones((3, 8)), "b": np.ones((8, 2))}
INPUT = np.ones((1, 3))


def test_a_contraction_of_another_name() -> None:
    """A user's rule may only relate the axes; that channels are summed its traits say."""
    mine = Primitive("mine")
    mine.def_impl(lambda a, b, **_: a @ b)
    mine.def_abstract_eval(lambda a, b, **_: a.update(shape=(a.shape[0], b.shape[1])))
    dims = (((1,), (0,)), ((), ()))

    def fn(v: Any, x: Any) -> Any:
        return mine.bind(jnp.tanh(x @ v["a"]), v["b"], dimension_numbers=dims)

    rule = jp.RULES["dot_general"]
    graph = jp.trace(fn, VARIABLES, INPUT, rules=jp.RULES | {"mine": rule})
    assert list(jp.gates.unit(graph)) == ["a"]
    graph = jp.trace(
        fn, VARIABLES, INPUT, rules=jp.RULES | {"mine": jp.Rule(rule.axes, rule.zeros)}
    )
    assert jp.gates.unit(graph) == {}
    assert jp.gates.refused(graph) == {"a": "b is read by neither a dot_general nor a convolution"}
