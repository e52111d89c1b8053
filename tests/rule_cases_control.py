"""Cases of calls, control flow, shardings and collectives."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import primitives

from rule_networks import Case, F

MESH = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
WHOLE = jax.NamedSharding(MESH, jax.P())
DOT = "a b, b c -> a c ! b"


def _net(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.tanh(a) @ b


@jax.custom_jvp
def _straight_jvp(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.round(3 * a) @ b


@_straight_jvp.defjvp
def _straight_jvp_rule(primals: Any, tangents: Any) -> Any:
    (a, b), (da, db) = primals, tangents
    return _straight_jvp(a, b), da @ jnp.cos(b) + a @ db


@jax.custom_vjp
def _straight_vjp(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.round(3 * a) @ b


_straight_vjp.defvjp(
    lambda a, b: (_straight_vjp(a, b), (a, b)),
    lambda kept, g: (g @ jnp.cos(kept[1]).T, 3 * kept[0].T @ g),
)


def _closed(fn: Any, *shapes: jax.ShapeDtypeStruct) -> Any:
    """`fn` behind the primitive that calls a closed program."""
    primitive = primitives.closed_call_p
    found = primitive.get_bind_params({"call_jaxpr": jax.make_jaxpr(fn)(*shapes)})
    subfuns, params = found if isinstance(found, tuple) else ((), found)
    return lambda *xs: primitive.bind(*subfuns, *xs, **params)


CALLS = {
    "jit": (
        Case(jax.jit(_net), (F(3, 3), F(3, 3)), DOT, grad=True),
        Case(jax.jit(lambda a: (a.T, a)), (F(3, 3),), "a b -> b a, a b"),
    ),
    "custom_jvp_call": (
        Case(_straight_jvp, (F(3, 3), F(3, 3)), DOT, grad=True),
        Case(jax.nn.relu, (F(3, 3),), "a b -> a b", grad=True),
    ),
    "custom_vjp_call": (Case(_straight_vjp, (F(3, 3), F(3, 3)), DOT, grad=True),),
    "closed_call": (Case(_closed(_net, F(3, 3), F(3, 3)), (F(3, 3), F(3, 3)), DOT, grad=True),),
    "remat": (Case(jax.checkpoint(_net), (F(3, 3), F(3, 3)), DOT, grad=True),),
}


def _layers(a: jax.Array, weights: jax.Array) -> jax.Array:
    return lax.scan(lambda c, w: (jnp.tanh(c @ w), c), a, weights)


def _countdown(a: jax.Array, b: jax.Array) -> jax.Array:
    def body(state: Any) -> Any:
        step, x, y = state
        return step + 1, y @ b, x

    return lax.while_loop(lambda state: state[0] < 3, body, (0, a, a))


def _until_small(a: jax.Array) -> jax.Array:
    return lax.while_loop(lambda x: jnp.max(0.1 - jnp.sum(x * x, 1)) < 0, lambda x: 0.5 * x, a)


def _branches(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.switch(
        jnp.argmax(jnp.array([0.0, 1.0])), [lambda x, y: jnp.tanh(x) @ y, lambda x, y: x @ y], a, b
    )


def _either(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.cond(True, lambda x, _: x, lambda x, y: x + jnp.cos(y), a, b)


CONTROL = {
    "scan": (
        Case(
            _layers, (F(3, 3), F(2, 3, 3)), "a b, . b b -> a b, . a b ! b", forgets="*", grad=True
        ),
        Case(
            lambda a: lax.scan(lambda c, x: (c + x, c * x), a[0], a, reverse=True),
            (F(2, 3),),
            "a, 1+1 a -> a, . a",
            grad=True,
        ),
        Case(
            lambda a: lax.scan(lambda c, _: (c[::-1], None), (a, a + 1), length=2),
            (F(3),),
            "a, a -> a, a",
            forgets="a",
        ),
    ),
    "while": (
        Case(_countdown, (F(3, 3), F(3, 3)), "a a, (), b a, b a -> (), b a, b a ! a", forgets="*"),
        Case(_until_small, (F(3, 3),), "a b -> a b ! b !! a"),
    ),
    "cond": (
        Case(_branches, (F(3, 3), F(3, 3)), "(), a b, b c -> a c ! b", grad=True),
        Case(_either, (F(3, 3), F(3, 3)), "(), a b, a b -> a b", forgets="ab"),
    ),
}


def _mapped(fn: Any, inside: Any = None, outside: Any = None, *, check: bool = False) -> Any:
    """`fn` on every device; whole arrays unless specs say otherwise."""
    specs = {"in_specs": inside or jax.P(), "out_specs": outside or jax.P()}
    return jax.shard_map(fn, mesh=MESH, check_vma=check, **specs)


def _vmapped(fn: Any) -> Any:
    """`fn` over the axis "i", of which a collective becomes a reduction."""
    return jax.vmap(fn, out_axes=None, axis_name="i")


ALL = "a b -> a b"
RING = [(i, (i + 1) % 8) for i in range(8)]

COLLECTIVES: dict[str, tuple[Case, ...]] = {
    "shard_map": (
        Case(_mapped(jnp.tanh), (F(3, 3),), ALL, local=True),
        Case(_mapped(jnp.tanh, jax.P("d"), jax.P("d")), (F(8, 3),), ". a -> . a", local=True),
    ),
    "psum": (
        Case(_mapped(lambda a: lax.psum(a, "d")), (F(3, 3),), ALL, local=True),
        Case(_vmapped(lambda a: lax.psum(a, "i")), (F(3, 3),), "a b -> b ! a"),
    ),
    "psum_invariant": (
        Case(
            _mapped(lambda a: lax.psum(lax.pcast(a, "d", to="varying"), "d"), check=True),
            (F(3, 3),),
            ALL,
            local=True,
        ),
    ),
    "pvary": (
        Case(
            _mapped(lambda a: lax.pcast(a, "d", to="varying"), None, jax.P("d"), check=True),
            (F(1, 3),),
            "1 a -> 1 a",
            local=True,
        ),
    ),
    "pmax": (
        Case(_mapped(lambda a: lax.pmax(a, "d")), (F(3, 3),), ALL, local=True),
        Case(_vmapped(lambda a: lax.pmax(-a, "i")), (F(3, 3),), "a b -> b !! a"),
    ),
    "pmin": (
        Case(_mapped(lambda a: lax.pmin(a, "d")), (F(3, 3),), ALL, local=True),
        Case(_vmapped(lambda a: lax.pmin(a, "i")), (F(3, 3),), "a b -> b !! a"),
    ),
    "ppermute": (Case(_mapped(lambda a: lax.ppermute(a, "d", RING)), (F(3, 3),), ALL, local=True),),
    "pbroadcast": (
        Case(_mapped(lambda a: lax.pbroadcast(a, "d", 0)), (F(3, 3),), ALL, local=True, runs=False),
    ),
    "all_gather": (
        Case(
            _mapped(lambda a: lax.all_gather(a, "d")),
            (F(3, 3),),
            ". . -> . . .",
            local=True,
            forgets="*",
        ),
    ),
    "all_gather_invariant": (
        Case(
            _mapped(lambda a: lax.all_gather(a, "d", to="invarying"), jax.P("d"), check=True),
            (F(8, 3),),
            "1 . -> . 1 .",
            local=True,
            forgets="*",
        ),
    ),
    "reduce_scatter": (
        Case(
            _mapped(lambda a: lax.psum_scatter(a, "d", tiled=True)),
            (F(8, 3),),
            ". . -> 1 .",
            local=True,
            forgets="*",
        ),
    ),
    "all_to_all": (
        Case(
            _mapped(lambda a: lax.all_to_all(a, "d", 0, 0)),
            (F(8, 3),),
            ". . -> . .",
            local=True,
            forgets="*",
        ),
    ),
    "axis_index": (Case(_mapped(lambda: lax.axis_index("d")), (), " -> ()", local=True),),
    "sharding_constraint": (
        Case(
            lambda a: lax.with_sharding_constraint(a, WHOLE),
            (F(3, 3),),
            ALL,
        ),
    ),
    "reshard": (Case(lambda a: jax.sharding.reshard(a, WHOLE), (F(3, 3),), ALL),),
    "device_put": (Case(lambda a, b: jax.device_put((a, b)), (F(3, 3), F(3)), "a b, c -> a b, c"),),
    "layout_constraint": (
        Case(lambda a: with_layout_constraint(a, Layout((0, 1))), (F(3, 3),), ALL),
    ),
}

CASES = CALLS | CONTROL | COLLECTIVES
