"""Einsums of several operands, whose contractions `resize` may meet in another order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.errors import ResizeError
from jaxprune.program import jaxpr
from jaxprune.program.rules import RULES
from jaxprune.running import contraction_order

RANDOM = np.random.default_rng(0)
SHAPES = {"a": (8, 32), "w": (32, 16, 12), "g": (4, 12), "s": (16, 6), "t": (32, 32)}
V = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
X = RANDOM.normal(size=(4, 8)).astype(np.float32)
KEEP = {"a": np.arange(32) % 16 == 3}


def three(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"])


def jitted(v, x):
    return jax.jit(three)(v, x) @ v["s"]


def four(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.einsum("bk,kcd,bd,ce->eb", h, v["w"], v["g"], v["s"])


def twice_the_same(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.einsum("bk,bk,kcd,bd->bc", h, h, v["w"], v["g"])


def summed_out(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.einsum("bk,kcd,bd->b", h, v["w"], v["g"])


def transposed_between(v, x):
    h = jnp.tanh(x @ v["a"]).T
    first = jnp.einsum("kb,kcd,bd->cb", h, v["w"], v["g"])
    return jnp.einsum("bc,ce,bd->bde", first.T, v["s"], v["g"])


def mapped(v, x):
    h = jnp.tanh(x @ v["a"])
    return jax.vmap(lambda h, g: jnp.einsum("k,kcd,d->c", h, v["w"], g))(h, v["g"])


def one_row(v, x):
    h = jnp.tanh(x[:1] @ v["a"])
    return jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"])


def in_a_loop(v, x):
    return jax.lax.fori_loop(0, 2, lambda _, y: jnp.tanh(y + three(v, x)), jnp.zeros((4, 16)))


def in_a_gradient(v, x):
    def summed(h):
        return jnp.sin(jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"])).sum()

    h = jnp.tanh(x @ v["a"])
    return (jax.grad(summed)(h) * h) @ v["t"]


SPELLINGS = [
    three,
    jitted,
    four,
    twice_the_same,
    summed_out,
    transposed_between,
    mapped,
    one_row,
    in_a_loop,
    in_a_gradient,
]


def used(fn):
    """The variables that a function reads."""
    return {name: leaf for name, leaf in V.items() if name not in jp.trace(fn, V, X).unread}


def orders(fn, v):
    """What its contractions read, in their order, inner programs too."""

    def found(program):
        for eqn in program.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn.params["dimension_numbers"]
            for inner in jaxpr.programs(eqn):
                yield from found(inner)

    return list(found(jaxpr.trace(fn, v, X)[0]))


@pytest.mark.parametrize("fn", SPELLINGS)
def test_an_einsum_may_contract_in_another_order(fn):
    v = used(fn)
    graph = jp.trace(fn, v, X)
    small = jp.slice(graph, v, KEEP)
    assert orders(fn, small) != orders(fn, v)
    resized = jp.resize(fn, graph, KEEP)
    wanted = fn(jp.mask(graph, v, KEEP), X)
    np.testing.assert_allclose(resized(small, X), wanted, rtol=1e-4, atol=1e-4)


class Einsums(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Dense(32, name="in")(x))
        w = self.param("w", nn.initializers.normal(), (h.shape[-1], 16, 12))
        g = self.param("g", nn.initializers.normal(), (4, 12))
        return nn.Dense(3, name="out")(jnp.einsum("bk,kcd,bd->bc", h, w, g))


def test_a_linen_module_with_an_einsum_is_resized():
    module = Einsums()
    v = jax.jit(module.init)(jax.random.key(0), X)
    graph = jp.linen.trace(module, v, X)
    keep = {"in/kernel": KEEP["a"]}
    resized = jp.linen.resize(module, graph, keep)
    wanted = module.apply(jp.mask(graph, v, keep), X)
    found = resized.apply(jp.slice(graph, v, keep), X)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


class NnxEinsums(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(8, 32, rngs=nnx.Rngs(0))
        self.w = nnx.Param(jnp.asarray(V["w"]))
        self.g = nnx.Param(jnp.asarray(V["g"]))

    def __call__(self, x):
        return jnp.einsum("bk,kcd,bd->bc", jnp.tanh(self.first(x)), self.w[...], self.g[...])


def test_an_nnx_module_with_an_einsum_is_resized():
    model = NnxEinsums()
    graph = jp.nnx.trace(model, X)
    keep = {"first/kernel": KEEP["a"]}
    small = jp.nnx.resize(model, graph, keep)
    kernel = model.first.kernel[...] * KEEP["a"][None]
    wanted = three({"a": kernel, "w": V["w"], "g": V["g"]}, X)
    np.testing.assert_allclose(small(X), wanted, rtol=1e-4, atol=1e-4)


def other_axes(h, v):
    return jnp.einsum("bk,kcd,be->bc", h, v["w"], v["g"])


def other_values(h, v):
    return jnp.einsum("bk,kcd,bd->bc", jnp.tanh(h), v["w"], v["g"])


def one_factor_more(h, v):
    return jnp.einsum("bk,bk,kcd,bd->bc", h, h, v["w"], v["g"])


def one_factor_twice(h, v):
    return jnp.einsum("bk,kcd,bd,bd->bc", h, v["w"], v["g"], v["g"])


def other_precision(h, v):
    return jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"], precision="highest")


def other_type(h, v):
    found = jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"], preferred_element_type=jnp.bfloat16)
    return found.astype(jnp.float32)


def summed_before(h, v):
    return jnp.einsum("k,kcd,bd->bc", h.sum(0), v["w"], v["g"])


@pytest.mark.parametrize(
    "other",
    [
        other_axes,
        other_values,
        one_factor_more,
        one_factor_twice,
        other_precision,
        other_type,
        summed_before,
    ],
)
def test_another_product_is_refused(other):
    def fn(v, x):
        h = jnp.tanh(x @ v["a"])
        if h.shape[-1] < 32:
            return other(h, v)
        return jnp.einsum("bk,kcd,bd->bc", h, v["w"], v["g"])

    graph = jp.trace(fn, V, X)
    with pytest.raises(ResizeError, match="not the same network"):
        jp.resize(fn, graph, KEEP)


SQUARES = [RANDOM.normal(size=(5, 5)).astype(np.float32) for _ in range(3)]
PRODUCTS = [
    (lambda a, b, c: (a @ b) @ c, lambda a, b, c: a @ (b @ c), True),
    (lambda a, b, c: (a @ b) @ c, lambda a, b, c: (c.T @ (b.T @ a.T)).T, True),
    (lambda a, b, c: (a @ b) @ c, lambda a, b, c: c.T @ (b.T @ a.T), False),
    (lambda a, b, c: (a @ b) @ c, lambda a, b, c: b @ (a @ c), False),
    (lambda a, b, c: (a @ b) @ c, lambda a, b, c: a @ (b.T @ c), False),
    (lambda a, b, c: (a @ a) @ (b @ c), lambda a, b, c: a @ (a @ (b @ c)), True),
    (lambda a, b, c: (a @ a.T) @ (b @ c), lambda a, b, c: (a.T @ a) @ (b @ c), False),
    (lambda a, b, c: (a.sum(0) @ b) @ c, lambda a, b, c: a.sum(0) @ (b @ c), True),
    (lambda a, b, c: (a.sum(0) @ b) @ c, lambda a, b, c: a.sum(1) @ (b @ c), False),
    (lambda a, b, c: (a @ b).sum(0) @ c, lambda a, b, c: a.sum(0) @ (b @ c), True),
]


@pytest.mark.parametrize(("one", "other", "wanted"), PRODUCTS, ids=range(len(PRODUCTS)))
def test_products_are_told_apart_by_what_they_compute(one, other, wanted):
    def last(fn):
        program, _ = jaxpr.trace(fn, *SQUARES)
        *_, (run, product) = contraction_order.chains(program, RULES, program.eqns[0])
        assert len(run) == len(program.eqns)
        return [id(var) for var in program.invars], product

    (ours, a), (theirs, b) = last(one), last(other)
    found = contraction_order.same(a, b, lambda x, y: ours.index(id(x)) == theirs.index(id(y)))
    assert found == wanted
    one, other = one(*SQUARES), other(*SQUARES)
    assert np.allclose(one, other, rtol=1e-3, atol=1e-3) == wanted


def diagonal(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.einsum("bk,kcd,bd,cc->bc", h, v["w"], v["g"], v["s"] @ v["s"].T)


def test_an_order_that_is_not_followed_says_how_to_pin_it():
    v = used(diagonal)
    graph = jp.trace(diagonal, v, X)
    with pytest.raises(ResizeError, match=r"optimize=jnp\.einsum_path\(\.\.\.\)\[0\]"):
        jp.resize(diagonal, graph, KEEP)
    path = jnp.einsum_path("bk,kcd,bd,cc->bc", X @ V["a"], V["w"], V["g"], V["s"] @ V["s"].T)[0]

    def pinned(v, x):
        h = jnp.tanh(x @ v["a"])
        operands = (h, v["w"], v["g"], v["s"] @ v["s"].T)
        return jnp.einsum("bk,kcd,bd,cc->bc", *operands, optimize=path)

    graph = jp.trace(pinned, v, X)
    jp.resize(pinned, graph, KEEP)


def test_what_an_einsum_does_not_cause_does_not_blame_it():
    def fn(v, x):
        h = jnp.tanh(x @ v["a"])
        return (h if h.shape[-1] == 32 else jnp.sin(h)) @ v["t"]

    graph = jp.trace(fn, V, X)
    with pytest.raises(ResizeError) as error:
        jp.resize(fn, graph, KEEP)
    assert "jnp.einsum_path" not in str(error.value)


def test_a_chain_ends_where_another_reads_it():
    def fn(v, x):
        t = x @ v["a"]
        return (t @ v["t"]).T, t

    program, _ = jaxpr.trace(fn, V, X)
    found = contraction_order.chains(program, RULES, program.eqns[0])
    assert [len(run) for run, _ in found] == [1]


def test_a_chain_is_whole_where_two_arrays_meet():
    program, _ = jaxpr.trace(lambda a, b, c: (a @ b) @ (b @ c), *SQUARES)
    found = contraction_order.chains(program, RULES, program.eqns[0])
    assert [len(run) for run, _ in found] == [1, 3]
