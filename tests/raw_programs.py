"""Random programs of raw `jax.numpy` and `lax`, for the laws: no layers, no modules.

A program is a chain of blocks between a first and a last contraction. A block is a function
`(h, make) -> h` of features [N, T, channels]; it takes its choices and its variables from `make`,
so that a new block is one function in one of the files. `python -m benchmarks.raw_programs 17`
prints program 17, and where the laws do not hold, the fewest of its blocks with which they fail.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import raw_contractions
import raw_control
import raw_convolutions
import raw_indexing
import raw_random
import raw_shapes
import raw_values
from raw_make import IDS, Make, Recipe

Block = Callable[[jax.Array, Make], jax.Array]

FAMILIES = (
    raw_contractions,
    raw_convolutions,
    raw_shapes,
    raw_indexing,
    raw_control,
    raw_random,
    raw_values,
)
BLOCKS: Mapping[str, Block] = {
    name: block
    for family in FAMILIES
    for name, block in vars(family).items()
    if inspect.isfunction(block) and [*inspect.signature(block).parameters] == ["h", "make"]
}
"""Every function of `(h, make)` in one of the families."""

EACH = 4
"""Blocks of a program."""
TURN = math.ceil(len(BLOCKS) / EACH)
"""So many programs have all blocks."""

FIRST = (3, 8, 3)
"""Shape of the input: examples, places, features."""


def _first(h: jax.Array, make: Make) -> jax.Array:
    return make.activation(h @ make.kernel(h, make.width()))


def _between(h: jax.Array, make: Make) -> jax.Array:
    """Returns h, or new features of it, where the block before may have frozen its channels."""
    return make.dense(h, make.width()) if make.choice(True, False, False) else h


def _last(h: jax.Array, make: Make) -> jax.Array:
    return jnp.einsum("ntc,cd->nd", h, make.variable(h.shape[-1], 2))


@dataclass(frozen=True, eq=False)
class Program:
    """A function of variables and inputs, with values for both.

    `recipe` has the blocks with their choices, which are the same at other sizes. `fn` returns
    {"out": [N, 2], "more": [...], "updated": {variable: its new value}}.
    """

    seed: int
    free_constants: bool
    recipe: Recipe
    variables: Mapping[str, np.ndarray]
    inputs: tuple[np.ndarray, ...]

    @property
    def names(self) -> list[str]:
        """The blocks, without those that are in every program."""
        return [name for name, _ in self.recipe[1:-1:2]]

    def fn(self, variables: Mapping[str, Any], x: Any, ids: Any, key: Any) -> dict[str, Any]:
        """Runs the blocks."""
        return _run(self.names, Make(dict(variables), self.recipe, ids, key, x.dtype), x)

    def __str__(self) -> str:
        """The recipe."""
        lines = [f"  {name}({', '.join(map(repr, choices))})" for name, choices in self.recipe]
        free = ", free constants" if self.free_constants else ""
        return "\n".join([f"program of seed {self.seed}, {self.inputs[0].dtype}{free}:", *lines])


def _run(names: Sequence[str], make: Make, x: Any) -> dict[str, Any]:
    h = make.within("first", _first, x)
    for name in names:
        h = make.within(name, BLOCKS[name], h).astype(x.dtype)  # of wider scalars
        h = make.within("between", _between, h)
    return {"out": make.within("last", _last, h), "more": make.outputs, "updated": make.updated}


class Dealt(NamedTuple):
    """What makes a program: the names of its blocks and a seed for all else."""

    names: tuple[str, ...]
    seed: int


def dealt(index: int) -> Dealt:
    """Returns the blocks of a program: every `TURN` programs have each once."""
    turn, place = divmod(index, TURN)
    order = np.random.default_rng([turn, 1]).permutation(list(BLOCKS))
    return Dealt(tuple(map(str, order[EACH * place : EACH * (place + 1)])), index)


def program(names: Sequence[str], seed: int, *, double: bool = False) -> Program:
    """Returns the program of some blocks, always the same; call it where x64 is enabled.

    A fifth of the programs is in float32, unless `double`.
    """
    random = np.random.default_rng([seed, 2])
    drawn = random.choice([np.float32, *4 * [np.float64]])
    dtype = np.dtype(np.float64 if double else drawn)
    free_constants = bool(random.random() < 0.25)
    inputs = (
        random.normal(size=FIRST).astype(dtype),
        random.integers(0, IDS, FIRST[:2]).astype(np.int32),
        np.array([0, seed], np.uint32),
    )
    make = Make({}, [], *inputs[1:], dtype, random)
    jax.eval_shape(lambda x: _run(names, make, x), inputs[0])
    return Program(seed, free_constants, make.recipe, make.variables, inputs)


def source(made: Program) -> str:
    """Returns all that is needed to read a program."""
    leaves = [f"  {path}: {x.dtype}{list(x.shape)}" for path, x in made.variables.items()]
    code = [inspect.getsource(BLOCKS[name]) for name in dict(made.recipe) if name in BLOCKS]
    jaxpr = jax.make_jaxpr(made.fn)(made.variables, *made.inputs)
    return "\n".join([str(made), "variables:", *leaves, "", *code, str(jaxpr)])
