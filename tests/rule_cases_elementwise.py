"""Cases of the elementwise rules."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives

from rule_networks import B, C, Case, F, I, U

SAME = "a b -> a b"
BOTH = "a b, a b -> a b"
SQUARE = F(3, 3)

_KEEP_ZERO = (
    "abs asin asinh atan atanh ceil erf erf_inv expm1 log1p neg sign sin sinh square "
    "stop_gradient tan tanh"
).split()
_LOSE_ZERO = (
    "acos bessel_i0e cos cosh erfc exp exp2 is_finite lgamma logistic digamma log rsqrt"
).split()
_INFINITE = ("digamma", "lgamma", "log", "rsqrt")
_ROOTS = ("cbrt", "sqrt")
_COMPARE = "eq ne lt le gt ge".split()
_BITS = "shift_left shift_right_arithmetic shift_right_logical".split()


def _bind(name: str, **params: object):
    return lambda *xs: getattr(primitives, f"{name}_p").bind(*xs, **params)


UNARY = (
    {name: (Case(getattr(lax, name), (SQUARE,), SAME),) for name in _KEEP_ZERO}
    | {name: (Case(getattr(lax, name), (SQUARE,), SAME + " !! ab", grad=True),) for name in _ROOTS}
    | {
        name: (Case(getattr(lax, name), (SQUARE,), SAME + (" !! ab" if name in _INFINITE else "")),)
        for name in _LOSE_ZERO
    }
    | {
        "acosh": (Case(lambda a: lax.acosh(a + 1), (SQUARE,), SAME, forgets="ab"),),
        "bessel_i1e": (Case(lax.bessel_i1e, (SQUARE,), SAME, forgets="ab"),),
        "clz": (Case(lax.clz, (I(3, 3),), SAME),),
        "conj": (Case(lax.conj, (C(3, 3),), SAME),),
        "convert_element_type": (
            Case(lambda a: lax.convert_element_type(a, jnp.bfloat16), (SQUARE,), SAME),
            Case(lambda a: lax.convert_element_type(a, jnp.int32), (F(3),), "a -> a", forgets="*"),
        ),
        "floor": (Case(lambda a: lax.floor(a * 3), (SQUARE,), SAME),),
        "round": (Case(lambda a: lax.round(a * 2), (SQUARE,), SAME),),
        "copy": (Case(lambda a: jnp.array(a, copy=True), (SQUARE,), SAME),),
        "imag": (Case(lax.imag, (C(3, 3),), SAME),),
        "real": (Case(lax.real, (C(3, 3),), SAME),),
        "integer_pow": (
            Case(lambda a: lax.integer_pow(a, 3), (SQUARE,), SAME),
            Case(lambda a: lax.integer_pow(a, -2), (SQUARE,), SAME + " !! ab"),
        ),
        "name": (Case(lambda a: checkpoint_name(a, "kept"), (SQUARE,), SAME),),
        "not": (
            Case(lax.bitwise_not, (I(3, 3),), SAME),
            Case(lax.bitwise_not, (B(3, 3),), SAME, forgets="*"),
        ),
        "population_count": (Case(lax.population_count, (I(3, 3),), SAME, forgets="ab"),),
        "reduce_precision": (Case(lambda a: lax.reduce_precision(a, 5, 10), (SQUARE,), SAME),),
    }
)

BINARY = (
    {name: (Case(getattr(lax, name), (SQUARE, SQUARE), BOTH, forgets="ab"),) for name in _COMPARE}
    | {name: (Case(getattr(lax, name), (I(3, 3), I(3, 3)), BOTH, forgets="ab"),) for name in _BITS}
    | {
        f"{name}_to": (Case(_bind(f"{name}_to"), (SQUARE, SQUARE), BOTH, forgets="ab"),)
        for name in ("eq", "lt", "le")
    }
    | {
        "add": (
            Case(lax.add, (SQUARE, SQUARE), BOTH),
            Case(lambda a: a + 0.0, (SQUARE,), "a b, () -> a b"),
            Case(lambda a: a + 1.0, (SQUARE,), "a b, () -> a b"),
            Case(lambda a: 1.0 + a, (F(3, 1),), "(), a 1 -> a 1"),
            Case(lambda a: a + lax.broadcast(0.0, (3, 3)), (SQUARE,), "a b, a b -> a b"),
        ),
        "add_any": (
            Case(lambda a, b: jax.vjp(lambda x: (x, x), a)[1]((a, b)), (SQUARE, SQUARE), BOTH),
        ),
        "sub": (
            Case(lambda a, b: a - 2 * b, (SQUARE, SQUARE), BOTH),
            Case(lambda a: a - 1.0, (SQUARE,), "a b, () -> a b"),
            Case(lambda a: 1.0 - a, (SQUARE,), "(), a b -> a b"),
        ),
        "mul": (
            Case(lax.mul, (SQUARE, SQUARE), BOTH),
            Case(lambda a: a * 2.0, (SQUARE,), "a b, () -> a b"),
            Case(lambda a, b: a * b, (F(3, 3), F()), "a b, () -> a b"),
        ),
        "div": (
            Case(lax.div, (SQUARE, SQUARE), BOTH),
            Case(lambda a, b: a / (b + 1), (SQUARE, SQUARE), BOTH),
            Case(lambda a: a / 2.0, (SQUARE,), "a b, () -> a b"),
            Case(lambda a: 2.0 / a, (SQUARE,), "(), a b -> a b !! ab"),
        ),
        "rem": (
            Case(lambda a, b: lax.rem(a, 0.7 * b), (SQUARE, SQUARE), BOTH),
            Case(lambda a: lax.rem(a, 0.3), (SQUARE,), "a b, () -> a b"),
        ),
        "max": (
            Case(lax.max, (SQUARE, SQUARE), BOTH),
            Case(lambda a: lax.max(a, 0.0), (SQUARE,), "a b, () -> a b"),
            Case(lambda a: lax.max(0.1, a), (SQUARE,), "(), a b -> a b"),
        ),
        "min": (
            Case(lax.min, (SQUARE, SQUARE), BOTH, forgets="*"),
            Case(lambda a: lax.min(a, 0.5), (SQUARE,), "a b, () -> a b"),
            Case(lambda a: lax.min(a, -0.5), (SQUARE,), "a b, () -> a b"),
        ),
        "pow": (
            Case(lambda a: lax.pow(a, 1.5), (SQUARE,), "a b, () -> a b"),
            Case(lambda a: lax.pow(2.0, a), (SQUARE,), "(), a b -> a b"),
            Case(lambda a: lax.pow(a, -0.5), (SQUARE,), "a b, () -> a b !! ab"),
            Case(lambda a: lax.pow(a, 0.5), (SQUARE,), "a b, () -> a b !! ab", grad=True),
            Case(lambda a: lax.pow(a, 0.0), (SQUARE,), "a b, () -> a b"),
            Case(lambda a: lax.pow(a, 1.0), (SQUARE,), "a b, () -> a b", grad=True),
        ),
        "and": (Case(lax.bitwise_and, (I(3, 3), I(3, 3)), BOTH, forgets="*"),),
        "or": (Case(lax.bitwise_or, (I(3, 3), I(3, 3)), BOTH),),
        "xor": (Case(lax.bitwise_xor, (I(3, 3), I(3, 3)), BOTH, forgets="ab"),),
        "atan2": (
            Case(lax.atan2, (SQUARE, SQUARE), BOTH + " !! ab", forgets="ab", grad=True),
            Case(
                lambda a: lax.atan2(a, a * a), (SQUARE,), BOTH + " !! ab", forgets="ab", grad=True
            ),
            Case(
                lambda a: lax.atan2(a, lax.full_like(a, 2)),
                (SQUARE,),
                "a b, a b -> a b",
                forgets="ab",
                grad=True,
            ),
        ),
        "complex": (Case(lax.complex, (SQUARE, SQUARE), BOTH),),
        "nextafter": (Case(lax.nextafter, (SQUARE, SQUARE), BOTH, forgets="ab"),),
        "igamma": (Case(lax.igamma, (SQUARE, SQUARE), f"{BOTH} !! ab", forgets="*", eager=True),),
        "igammac": (Case(lax.igammac, (SQUARE, SQUARE), f"{BOTH} !! ab", forgets="*", eager=True),),
        "igamma_grad_a": (
            Case(lax.igamma_grad_a, (SQUARE, SQUARE), f"{BOTH} !! ab", forgets="*", eager=True),
        ),
        "polygamma": (Case(lambda a: lax.polygamma(1.0, a + 1), (SQUARE,), "(), a b -> a b"),),
        "zeta": (Case(lambda a, b: lax.zeta(a + 2, b + 1), (SQUARE, SQUARE), BOTH),),
    }
)

OTHER = {
    "regularized_incomplete_beta": (
        Case(
            lax.betainc,
            (F(3), F(3), F(3)),
            "a, a, a -> a !! a",
            forgets="*",
            eager=True,
        ),
    ),
    "select_n": (
        Case(
            lambda p, a, b: lax.select_n(p, a, b),
            (B(3, 3), SQUARE, SQUARE),
            "a b, a b, a b -> a b",
            forgets="*",
        ),
        Case(
            lambda a, b: lax.select_n(True, a, b),
            (SQUARE, SQUARE),
            "(), a b, a b -> a b",
            forgets="*",
        ),
        Case(
            lambda a, b: lax.select_n(b, a, lax.full_like(a, 0.0)),
            (SQUARE, B(3, 3)),
            "a b, a b, a b -> a b",
            forgets="*",
        ),
    ),
    "clamp": (
        Case(lambda a: lax.clamp(0.0, a, 1.0), (SQUARE,), "(), a b, () -> a b"),
        Case(lambda a: lax.clamp(0.1, a, 1.0), (SQUARE,), "(), a b, () -> a b"),
        Case(
            lambda a, b: lax.clamp(b, a, b + 1),
            (SQUARE, SQUARE),
            "a b, a b, a b -> a b",
            forgets="ab",
        ),
    ),
    "threefry2x32": (
        Case(
            lambda *xs: primitives.threefry2x32_p.bind(*xs),
            (U(3), U(3), U(3), U(3)),
            "a, a, a, a -> a, a",
            eager=True,
        ),
    ),
    "optimization_barrier": (
        Case(lambda a, b: lax.optimization_barrier((a, b)), (SQUARE, F(4)), "a b, c -> a b, c"),
        Case(
            lambda a: lax.optimization_barrier((lax.broadcast(0.0, (2,)), a)),
            (SQUARE,),
            "a, b c -> a, b c",
        ),
    ),
}

if hasattr(primitives, "log2_p"):  # JAX 0.12
    OTHER["log2"] = (Case(jnp.log2, (SQUARE,), SAME + " !! ab"),)
    OTHER["one_minus_square"] = (Case(_bind("one_minus_square"), (SQUARE,), SAME),)
    OTHER["polynomial"] = (
        Case(lambda a: _bind("polynomial")(a, 1.0, 2.0), (SQUARE,), "a b, (), () -> a b"),
    )

CASES = UNARY | BINARY | OTHER
