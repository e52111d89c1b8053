"""What a block of a raw program takes its choices and variables from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (4, 6, 8)
EVEN = (4, 8)
IDS = 4
"""The ids of the input are below it."""


Recipe = list[tuple[str, list[Any]]]
"""The blocks in order, each with its choices."""


class Make:
    """Makes choices and variables at first, and hands out the same ones in every later run.

    A choice is made once, so that it does not depend on the sizes of a later run. The shapes that
    blocks give count in the first run only: later ones have the variables that they are given.
    """

    def __init__(
        self,
        variables: dict[str, Any],
        recipe: Recipe,
        ids: jax.Array,
        key: jax.Array,
        dtype: Any,
        random: np.random.Generator | None = None,
    ):
        self.variables = variables
        self.recipe = recipe
        self.ids = ids  # int32[N, T], below IDS
        self.key = key  # uint32[2]
        self.dtype = dtype
        self.random = random  # in the first run
        self.outputs: list[jax.Array] = []
        self.updated: dict[str, jax.Array] = {}
        self._step = -1
        self._read = self._made = 0  # choices and variables of this block so far

    def within(self, name: str, block: Callable[[Any, "Make"], Any], h: Any) -> Any:
        """Returns what a block makes of `h`; its variables go by its place and name."""
        self._step, self._read, self._made = self._step + 1, 0, 0
        if self.random is not None:
            self.recipe.append((name, []))
        return block(h, self)

    def choice(self, *options: Any) -> Any:
        """Returns one of the options."""
        _, choices = self.recipe[self._step]
        if self.random is not None:
            choices.append(options[int(self.random.integers(len(options)))])
        self._read += 1
        return choices[self._read - 1]

    def permutation(self, n: int) -> tuple[int, ...]:
        """Returns a permutation of n places."""
        random = np.random.default_rng(self.choice(*range(100)))
        return tuple(random.permutation(n).tolist())

    def integers(self, n: int, below: int) -> tuple[int, ...]:
        """Returns n integers in 0 .. below - 1."""
        random = np.random.default_rng(self.choice(*range(100)))
        return tuple(random.integers(0, below, n).tolist())

    def width(self) -> int:
        """Returns a number of channels."""
        return self.choice(*WIDTHS)

    def variable(self, *shape: int, dtype: Any = None, scale: float | None = None) -> jax.Array:
        """Returns a variable: normal, by default scaled for a sum over the axis before the last."""
        scale = scale or (shape[-2] if len(shape) > 1 else 4) ** -0.5
        return self.given(
            lambda random: (scale * random.normal(size=shape)).astype(dtype or self.dtype)
        )

    def given(self, draw: Callable[[np.random.Generator], Any]) -> jax.Array:
        """Returns a variable whose values are drawn by `draw`."""
        self._made += 1
        if self.random is not None:
            self.variables[self._name()] = np.asarray(draw(self.random))
        return jnp.asarray(self.variables[self._name()])

    def _name(self) -> str:
        return f"{self._step}_{self.recipe[self._step][0]}_{self._made}"

    def update(self, value: jax.Array) -> None:
        """Makes `value` the new value of the variable that was made last."""
        self.updated[self._name()] = value

    def kernel(self, h: jax.Array, features: int) -> jax.Array:
        """Returns a kernel [channels, features]."""
        return self.variable(h.shape[-1], features)

    def dense(self, h: jax.Array, features: int) -> jax.Array:
        """Returns h times a kernel."""
        return h @ self.kernel(h, features)

    def even(self, h: jax.Array) -> jax.Array:
        """Returns features that two and four divide."""
        return self.dense(h, self.choice(*EVEN))

    def vector(self, h: jax.Array) -> jax.Array:
        """Returns a learned vector [channels]."""
        return self.variable(h.shape[-1])

    def activation(self, h: jax.Array) -> jax.Array:
        """Returns an elementwise function of h; the last two are not zero at zero."""
        name = self.choice("identity", "identity", "relu", "tanh", "gelu", "sigmoid", "softplus")
        return h if name == "identity" else getattr(jax.nn, name)(h)

    def typed_key(self) -> jax.Array:
        """Returns a key: that of the input, or a constant."""
        if self.choice(True, False):
            return jax.random.wrap_key_data(self.key)
        return jax.random.key(self.choice(3, 5))


def one_zero(h: jax.Array) -> jax.Array:
    """Returns h without minus zero, which `top_k` puts behind zero.

    A sum of products with zeros is minus zero for some numbers of them.
    """
    return jnp.where(h == 0, jnp.zeros_like(h), h)
