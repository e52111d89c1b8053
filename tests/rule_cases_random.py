"""Cases of random keys and of what is drawn from them."""

import jax
from jax import lax

from rule_networks import Case, F, U


def rbg(data: jax.Array) -> jax.Array:
    """Returns keys of a generator that draws for all of a batch at once."""
    return jax.random.wrap_key_data(data, impl="rbg")


CASES = {
    "random_bits": (
        Case(
            lambda a: jax.random.bits(jax.random.wrap_key_data(a), (3, 4)),
            (U(2),),
            "() -> a b",
        ),
        Case(
            lambda a: jax.vmap(lambda k: jax.random.bits(k, (4,)))(jax.random.wrap_key_data(a)),
            (U(3, 2),),
            "a -> a b",
        ),
        Case(
            lambda a: jax.vmap(lambda k: jax.random.bits(k, (4,)))(rbg(a)),
            (U(3, 4),),
            ". -> . a",
        ),
    ),
    "random_seed": (Case(lambda a: jax.vmap(jax.random.key)(a), (U(3),), "a -> a", forgets="a"),),
    "random_wrap": (Case(jax.random.wrap_key_data, (U(3, 2),), "a . -> a", forgets="a"),),
    "random_unwrap": (
        Case(
            lambda a: jax.random.key_data(jax.vmap(jax.random.key)(a)),
            (U(3),),
            "a -> a .",
            forgets="a",
        ),
    ),
    "random_split": (
        Case(
            lambda a: jax.vmap(jax.random.split)(jax.random.wrap_key_data(a)),
            (U(3, 2),),
            "a -> a b",
            forgets="a",
        ),
        Case(lambda a: jax.random.split(jax.random.wrap_key_data(a), 3), (U(2),), "() -> a"),
        Case(
            lambda a: jax.vmap(jax.random.split)(rbg(a)),
            (U(3, 4),),
            ". -> . a",
        ),
    ),
    "random_gamma": (
        Case(
            lambda a, b: jax.random.gamma(jax.random.wrap_key_data(a), b),
            (U(2), F(3, 4)),
            "(), a b -> a b",
        ),
        Case(
            lambda a, b: jax.vmap(jax.random.loggamma)(jax.random.wrap_key_data(a), b),
            (U(3, 2), F(3, 4)),
            "a, a b -> a b",
        ),
        Case(
            lambda a, b: jax.vmap(jax.random.gamma)(rbg(a), b),
            (U(3, 4), F(3, 4)),
            "., . a -> . a",
        ),
    ),
    "random_fold_in": (
        Case(
            lambda a, b: jax.vmap(lambda i: jax.random.fold_in(jax.random.wrap_key_data(a), i))(b),
            (U(2), U(3)),
            "(), a -> a",
            forgets="a",
        ),
        Case(
            lambda a, b: jax.vmap(lambda k: jax.vmap(lambda i: jax.random.fold_in(k, i))(b))(
                jax.random.wrap_key_data(a)
            ),
            (U(3, 2), U(4)),
            "a 1, 1 b -> a b",
            forgets="ab",
        ),
        Case(
            lambda a, b: jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(a), b),
            (U(3, 2), U(3)),
            "a, a -> a",
            forgets="a",
        ),
    ),
    "random_clone": (
        Case(
            lambda a: jax.random.clone(jax.random.wrap_key_data(a)),
            (U(3, 2),),
            "a -> a",
            forgets="a",
        ),
    ),
    "rng_bit_generator": (Case(lambda a: lax.rng_bit_generator(a, (3,)), (U(4),), ". -> ., a"),),
}
