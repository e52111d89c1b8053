"""Functions that bring their own derivative, at the kept sizes: values and gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.ode import odeint

import jaxprune as jp
from test_draws import KEEP, V, X, check, network
from test_narrow import step

TABLE = np.linspace(0.5, 2.0, 3)


def solved(v: Any, x: Any) -> Any:
    """The end of a differential equation with a hidden layer."""

    def field(y: Any, _t: Any, w: Any) -> Any:
        return jnp.tanh(y @ w["w"] + w["b"][None]) @ w["u"]

    return odeint(field, x[:, :4], jnp.array([0.0, 0.5, 1.0]), v, rtol=1e-3)[-1]


def solved_over_variables(v: Any, x: Any) -> Any:
    """As `solved`, with a function that closes over the variables."""

    def field(y: Any, t: Any) -> Any:
        return jnp.tanh(y @ v["w"] + v["b"][None] * t) @ v["u"]

    return odeint(field, x[:, :4], jnp.array([0.0, 1.0]), rtol=1e-3)[-1]


@pytest.mark.parametrize("fn", [solved, solved_over_variables])
def test_a_differential_equation(fn: Any) -> None:
    with jax.enable_x64(True):
        v = {**V, "w": V["w"][:4] / 4}
        graph = jp.trace(fn, v, X)
        assert {name: (g.size, g.inexact) for name, g in graph.groups.items()} == {"w": (8, None)}
        check(fn, graph, v, X, KEEP)


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def applied(function: Any, h: Any, times: int) -> Any:
    return times * function(h)


applied.defvjp(
    lambda function, h, times: (applied(function, h, times), h),
    lambda function, times, h, g: (g * function(h) * times + 1,),
)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def applied_forward(function: Any, h: Any) -> Any:
    return function(h)


@applied_forward.defjvp
def _(function: Any, primals: Any, tangents: Any) -> Any:
    return function(*primals), 2 * function(*primals) * tangents[0]


@jax.custom_vjp
def counted(h: Any, count: Any, key: Any) -> Any:
    """Takes a count and a key, gives a count."""
    return h * jax.random.uniform(key, h.shape), count + 1


counted.defvjp(
    lambda h, count, key: (counted(h, count, key), (h, count, key)),
    lambda kept, g: (g[0] * kept[1], None, None),
)


@jax.custom_vjp
def constant(h: Any) -> Any:
    """Closes over an array, as its derivative does over another."""
    return h * TABLE[:, None]


constant.defvjp(
    lambda h: (constant(h), None), lambda _, g: (g * jnp.asarray(TABLE[::-1])[:, None],)
)


@jax.custom_vjp
def looped(h: Any) -> Any:
    """A function with its own derivative in a scan in another one."""
    return lax.scan(lambda h, _: (step(h) + jnp.sin(h), None), h, length=2)[0]


looped.defvjp(lambda h: (looped(h), h), lambda h, g: (jax.vjp(jax.jit(looped_again), h)[1](g)[0],))


def looped_again(h: Any) -> Any:
    return lax.scan(lambda h, _: (constant(step(h) - h), None), h, length=2)[0]


@jax.custom_gradient
def clipped(h: Any) -> Any:
    """A gradient that is clipped, and closes over the input."""
    return jnp.sin(h), lambda g: jnp.clip(g, -0.1, 0.1) * h


@jax.custom_vjp
def unmoved(h: Any, other: Any) -> Any:
    return h * other


def _unmoved_forward(h: Any, other: Any) -> Any:
    return h.value * other.value, other.value if h.perturbed else None


unmoved.defvjp(_unmoved_forward, lambda other, g: (g * other, None), symbolic_zeros=True)


@jax.custom_vjp
def turned(h: Any) -> Any:
    """Complex inside."""
    return h * (1 + 2j)


turned.defvjp(lambda h: (turned(h), None), lambda _, g: (jnp.conj(g) * 2,))


@jax.custom_jvp
def paired(h: Any) -> Any:
    return {"sin": jnp.sin(h), "sign": jnp.sign(h).astype(jnp.int32)}


@paired.defjvp
def _(primals: Any, tangents: Any) -> Any:
    out = paired(*primals)
    return out, {
        "sin": out["sign"] * tangents[0],
        "sign": np.zeros(out["sign"].shape, jax.dtypes.float0),
    }


def converted(h: Any) -> Any:
    """A function that is freed of what it closes over, as solvers do."""
    scale = jnp.exp(h.mean(0, keepdims=True))
    function, hoisted = jax.closure_convert(lambda y: jnp.tanh(y * scale), h)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(function: Any, y: Any, *hoisted: Any) -> Any:
        return function(y, *hoisted)

    def backward(function: Any, kept: Any, g: Any) -> Any:
        return jax.vjp(function, *kept)[1](2 * g)

    run.defvjp(lambda function, *given: (run(function, *given), given), backward)
    return run(function, h, *hoisted)


def root(h: Any) -> Any:
    """The number whose cube and itself sum to h, entry by entry."""
    f = lambda y: y**3 + y - h  # noqa: E731

    def solve(f: Any, y: Any) -> Any:
        slope = lambda y: jax.jvp(f, (y,), (jnp.ones_like(y),))[1]  # noqa: E731
        return lax.fori_loop(0, 30, lambda _, y: y - f(y) / slope(y), y)

    return lax.custom_root(f, h, solve, lambda g, y: y / g(jnp.ones_like(y)))


@jax.custom_vjp
def remembered(h: Any) -> Any:
    return jnp.sin(h)


remembered.defvjp(lambda h: (jnp.sin(h), h), lambda h, g: (g * h,), optimize_remat=True)

LAYERS = {
    "a function that is not an operand": lambda h: applied(jnp.sin, h, 3),
    "forward, a function that is not an operand": lambda h: applied_forward(jnp.sin, h),
    "integers and keys": lambda h: counted(h, 2, jax.random.key(0))[0],
    "a closed over array": constant,
    "in a scan": lambda h: lax.scan(lambda h, _: (constant(jnp.sin(h)), None), h, length=2)[0],
    "in a scan in another": looped,
    "in remat in a branch": lambda h: lax.cond(h.sum() < 99, jax.checkpoint(constant), jnp.sin, h),
    "by its gradient": clipped,
    "symbolic zeros": lambda h: unmoved(h, jnp.ones_like(h) * 3),
    "complex": lambda h: jnp.abs(turned(h.astype(jnp.complex128))),
    "several results": lambda h: (p := paired(h))["sin"] * p["sign"],
    "freed of what it closes over": converted,
    "mapped": lambda h: jax.vmap(lambda row: clipped(row) * step(row - 0.1))(h),
    "of a derivative": lambda h: jax.grad(lambda h: (converted(h) ** 2).sum())(h),
    "what is recomputed": remembered,
}

if jax.__version_info__ < (0, 12):  # later it is a primitive without a rule
    LAYERS["a root"] = root


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_masked_function(name: str) -> None:
    with jax.enable_x64(True):
        fn = network(LAYERS[name])
        graph = jp.trace(fn, V, X)
        assert {name: (g.size, g.inexact) for name, g in graph.groups.items()} == {"w": (8, None)}
        check(fn, graph, V, X, KEEP)


def closing(v: Any, x: Any) -> Any:
    """Closes over a variable, as JAX itself differentiates only for other ones."""

    @jax.custom_vjp
    def function(h: Any) -> Any:
        return h * v["b"].sum()

    function.defvjp(lambda h: (function(h), None), lambda _, g: (g,))
    return function(x @ v["w"]) @ v["u"]


def closing_behind(v: Any, x: Any) -> Any:
    """The derivative alone closes over a variable."""
    function = jax.custom_jvp(jnp.sin)
    function.defjvp(lambda primals, tangents: (function(*primals), tangents[0] * v["b"][None]))
    return function(x @ v["w"]) @ v["u"]


@pytest.mark.filterwarnings("ignore:jp.slice. the traced call does not read b")
@pytest.mark.parametrize("fn", [closing, closing_behind])
def test_a_derivative_that_closes_over_variables_is_refused(fn: Any) -> None:
    graph = jp.trace(fn, V, X)
    small, masked = jp.slice(graph, V, KEEP), jp.mask(graph, V, KEEP)
    narrowed = jp.narrow(fn, graph, KEEP)
    np.testing.assert_allclose(narrowed(small, X), fn(masked, X), rtol=1e-5)
    with pytest.raises(
        jp.errors.ResizeError, match=r"custom_.*test_own_derivatives.*closes over.\nFix: make them"
    ):
        jax.grad(lambda x: narrowed(small, x).sum())(X)
