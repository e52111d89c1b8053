"""Good arguments to call a function with, and bad ones of every kind."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxprune as jp


class Net(nn.Module):
    """Two layers, the first with BatchNorm."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(4, name="a")(x))
        return nn.Dense(3, name="c")(nn.relu(nn.Dense(6, name="b")(nn.relu(x))))


class Twin(nnx.Module):
    """The same without BatchNorm."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.c = nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.c(nnx.relu(self.a(x)))


MODEL, TWIN = Net(), Twin(nnx.Rngs(0))
X = np.ones((1, 2), np.float32)
VARIABLES = jax.device_get(jax.jit(MODEL.init)(jax.random.key(0), X))
PARAMS = VARIABLES["params"]


def apply(v: Any, x: Any) -> Any:
    """The network in eval mode."""
    return MODEL.apply(v, x)


def train(v: Any, x: Any) -> Any:
    """The network in train mode: outputs and statistics."""
    return MODEL.apply(v, x, train=True, mutable=["batch_stats"])


def plain(v: Any, x: Any) -> Any:
    """Two layers that read their sizes from the arrays."""
    return jax.nn.relu(x @ v["a"]) @ v["b"]


PLAIN = {"a": np.ones((2, 4), np.float32), "b": np.ones((4, 3), np.float32)}
PLAIN_GRAPH = jp.trace(plain, PLAIN, X)
PLAIN_SMALL = jp.slice(PLAIN_GRAPH, PLAIN, {"a": np.arange(4) < 2})
GRAPH = jp.trace(apply, VARIABLES, X)
TWIN_GRAPH = jp.nnx.trace(TWIN, X)
TWIN_KEEP = {"a/kernel": np.arange(4) < 2}
A, B = "a/kernel", "b/kernel"
KEEP = {A: np.array([True, False, True, True])}
SMALL = jp.slice(GRAPH, VARIABLES, KEEP)
GRADIENTS = jax.tree.map(np.ones_like, VARIABLES)
SCORES = {A: np.array([0.3, 0.1, 0.2, 0.4]), B: np.arange(6.0)}
SPEC = jp.spec(GRAPH, KEEP)


class Arg(NamedTuple):
    """A good value of an argument, bad ones by name, and what the error must say of it."""

    good: Any
    bad: Mapping[str, Any]
    says: str = ""


def bad(*values: Any) -> dict[str, Any]:
    """Names values by what they look like."""
    return {repr(value)[:50]: value for value in values}


def without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The table without some of its entries."""
    assert table.keys() >= set(names)
    return {name: value for name, value in table.items() if name not in names}


NAN = float("nan")
GRAPHS = bad(None, 3, "graph", {}, [], apply, MODEL, VARIABLES)
MASKS: dict[str, Any] = {
    "None": None,
    "a string": "1011",
    "a count": 3,
    "a negative count": -3,
    "a float": 0.5,
    "a bool": True,
    "indices": [0, 2],
    "index array": np.array([0, 2, 3]),
    "ints of the length": [1, 0, 1, 1],
    "floats of the length": np.array([1.0, 0, 1, 1]),
    "jax floats": jnp.ones(4),
    "NaN": [NAN] * 4,
    "all False": np.zeros(4, bool),
    "all False, jax": jnp.zeros(4, bool),
    "short": np.ones(3, bool),
    "empty": [],
    "nested": [[True, False, True, True]],
    "ragged": [[True], [False, True]],
    "strings": ["yes", "no", "yes", "yes"],
    "objects": [True, None, True, True],
    "complex": np.ones(4, complex),
    "a dict": {0: True},
    "a set": {True},
    "a function": apply,
    "a shape": jax.ShapeDtypeStruct((4,), bool),
    "a key": jax.random.key(0),
}
NO_MAPPINGS = {
    **bad(None, 3, "keep", [True] * 4, {A, B}, apply),
    "an array": np.ones(4, bool),
    "pairs": [(A, KEEP[A])],
}
KEEPS = {
    **NO_MAPPINGS,
    **{f"{{a: {name}}}": {A: mask} for name, mask in MASKS.items()},
    "an unknown group": {"nope": KEEP[A]},
    "a number for a name": {3: KEEP[A]},
    "None for a name": {None: KEEP[A]},
    "a good one beside": {B: np.ones(6, bool), A: [0, 2]},
}
WIDTHS = {
    **without(KEEPS, "None", "{a: a count}"),
    **{f"{{a: {n!r}}}": {A: n} for n in (0, -1, 5, 2.0, True, NAN, "2", None, 1j, np.float32(2))},
    "jax zero": {A: jnp.int32(0)},
    "unknown count": {"nope": 1},
}
SPELLINGS = {
    "jax": {A: jnp.asarray(KEEP[A])},
    "list": {A: KEEP[A].tolist()},
    "tuple": {A: tuple(KEEP[A])},
    "list of jax bools": {A: list(jnp.asarray(KEEP[A]))},
}
"""Other ways to write KEEP, taken everywhere."""

ONE_SCORE = {
    "None": None,
    "a string": "1234",
    "strings": ["a", "b", "c", "d"],
    "ragged": [[1.0], [2.0, 3.0]],
    "complex": np.ones(4, complex),
    "a keep": KEEP[A],
    "objects": [1.0, None, 2.0, 3.0],
    "a scalar": 1.0,
    "short": [1.0, 2.0],
    "wide": np.ones((4, 2)),
    "NaN": [1.0, NAN, 2.0, 3.0],
    "a dict": {0: 1.0},
    "a function": apply,
    "a shape": jax.ShapeDtypeStruct((4,), np.float32),
    "a key": jax.random.key(0),
}
BAD_SCORES = {
    **NO_MAPPINGS,
    **{f"{{a: {name}}}": {A: value} for name, value in ONE_SCORE.items()},
    "an unknown group": {"nope": SCORES[A]},
    "a number for a name": {3: SCORES[A]},
    "empty": {},
}
PATTERNS = bad(3, 0.5, True, b"a/*", "nope*", ["nope"], [3], [None], [["a/*"]], ["a/*", 3])
PATTERNS |= {"the keep": {"nope": KEEP[A]}, "a kind that is absent": jp.Kind.HEADS}
NONE_CHOSEN = bad([], (), set(), {})
RATIOS = bad("0.5", None, NAN, -0.1, 1.5, True, [0.5], 1j, float("inf"), 1.0, np.ones(2) / 2, b"1")
COUNTS = bad(0, -1, 1.5, "3", None, True, NAN, [1], 2j, np.float32(2), np.ones(2, int), {})
POSITIVES = bad("1", None, NAN, -0.1, True, [0.5], 1j, float("inf"), np.ones(2), 0)
STRENGTHS = bad("1", None, NAN, -1e-4, True, [0.5], 1j, float("inf"), np.ones(2), {})
FLAGS = bad("yes", None, 3, 0.5, [])
FUNCTIONS = {**bad(None, 3, "relu", {}, [], X, MODEL, TWIN, Net, Twin, VARIABLES, GRAPH)}
CALLABLES = {**bad(None, 3, "relu", {}, [], X, VARIABLES)}
OTHER = jax.tree.map(lambda leaf: np.ones((*leaf.shape, 2)), VARIABLES)
TREES = {
    **bad(3, "tree", [X], {"params": {"a": X}}, {"params": 3}, apply),
    "strings": jax.tree.map(lambda _: "x", VARIABLES),
    "objects": jax.tree.map(lambda _: object(), VARIABLES),
    "other shapes": OTHER,
    "the params alone": PARAMS,
    "a module": MODEL,
}
INPUTS = {"a string": ("x",), "an object": (object(),), "a list of strings": (["x"],)}
KEYS = bad(None, "key", 0.5, [], X)
PATHS = bad(None, 3, [], {}, 0.5)
MODULES = bad(None, 3, "model", {}, Net, VARIABLES, apply)
G = Arg(GRAPH, GRAPHS, "channel graph")
K = Arg(KEEP, KEEPS, "keep")
W = Arg(KEEP, WIDTHS, "keep|width")
S = Arg(SCORES, BAD_SCORES, "score")
V = Arg(VARIABLES, TREES, "variable|tree|BatchNorm")
F = Arg(apply, FUNCTIONS, "function")
ONLY = Arg([A], PATTERNS | NONE_CHOSEN, "only|kind")
PROTECT = Arg([B], PATTERNS, "protect|kind")
TX = optax.sgd(0.1, momentum=0.9)
