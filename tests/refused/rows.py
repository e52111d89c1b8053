"""What a row is, and arguments that many rows share."""

import inspect
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

import jaxprune as jp
from refused.values import (
    BAD_SCORES,
    CALLABLES,
    COUNTS,
    FLAGS,
    GRAPHS,
    INPUTS,
    KEEPS,
    NAN,
    NO_MAPPINGS,
    ONLY,
    PATTERNS,
    RATIOS,
    A,
    Arg,
    X,
    apply,
    bad,
    without,
)


class Row(NamedTuple):
    """A public function: how it is called with arguments by name, and which are tried badly."""

    call: Callable[..., Any]
    args: Mapping[str, Arg]


def splat(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The call with `inputs` as positional arguments behind all others that have a position."""
    placed = [
        name
        for name, item in inspect.signature(fn).parameters.items()
        if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]

    def call(inputs: Any, **kwargs: Any) -> Any:
        args = [kwargs.pop(name) for name in placed if name in kwargs]
        return fn(*args, *inputs, **kwargs)

    return call


def later(make: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The call of what `make` returns with the arguments `names`; the rest goes to `make`."""

    def call(inputs: Any, **kwargs: Any) -> Any:
        found = make(**{name: v for name, v in kwargs.items() if name not in names})
        return found(*(kwargs[name] for name in names), *inputs)

    return call


def file(call: Callable[[str], Any]) -> Any:
    """Calls with a path in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        return call(f"{folder}/file")


ABSENT = ...
"""The good value of a keyword that does not exist, which a call must refuse."""
NAMED = without(PATTERNS, "a kind that is absent")
GATES = NO_MAPPINGS | without(BAD_SCORES, "empty", "{a: NaN}", "{a: a keep}")
OPTIONAL_GRAPH = Arg(None, without(GRAPHS, "None"), "channel graph")
INPUT = Arg((X,), INPUTS, "input")
PATH = Arg("", bad(3, 0.5, True, b"x" * 3), "path")
ROLES = Arg(("out",), bad(None, 3, "out", [], ("nope",), [3], {"out": 1}), "roles")
REDUCE = Arg(jnp.sum, CALLABLES, "reduce")
WITHIN = Arg({}, without(KEEPS, "None"), "keep")
RULE = Arg(jp.select.exact_count, CALLABLES, "ties|rule")
MEMBERS = Arg({A: 2}, bad(3, "a", [A], {"nope": 1}, {A: 0}, {A: 1.5}, {A: "2"}, {3: 1}), "members")
OPEN = without(RATIOS, "1.0")
"""Not even shares in [0, 1]."""
CONSTRAINTS = {
    "min_channels": Arg(1, COUNTS, "min_channels"),
    "min_keep_ratio": Arg(0.1, OPEN, "min_keep_ratio"),
    "max_prune_ratio": Arg(0.9, OPEN, "max_prune_ratio"),
    "multiple_of": Arg(
        1, COUNTS | bad({"nope": 2}, {A: 0}, {A: "2"}, {3: 2}, jp.select.ArrayWidth), "multiple_of"
    ),
    "equal": Arg((), bad(None, 3, 0.5, ["nope"], [[3]], [[]], [None], [A]), "equal"),
    "protect": Arg((), PATTERNS, "protect|kind"),
    "only": ONLY,
    "strict": Arg(False, FLAGS, "strict"),
    "within": WITHIN,
    "protct": Arg(ABSENT, bad(["a/kernel"], None), "near: .*protect"),
    "min_channel": Arg(ABSENT, bad(2), "near: .*min_channels"),
    "roles": Arg(ABSENT, bad(("out",)), "no option 'roles'"),
}
NORMALIZERS = CALLABLES | {
    "a score": jp.scores.l2,
    "to one number": lambda scores: scores.mean(),
    "to NaN": lambda scores: scores * NAN,
    "to words": lambda _: "x",
    "to nothing": lambda _: None,
}
BOUNDS = {
    name: Arg(0.8, without(RATIOS, "1.0", "None") | bad(0, -3, 1.5), name)
    for name in ("keep_macs", "keep_params", "keep_weights", "keep_bytes")
}
PRUNED = {
    **BOUNDS,
    **{
        name: arg
        for name, arg in CONSTRAINTS.items()
        if arg.good is not ABSENT and name != "strict"
    },
    "scores": Arg(jp.scores.l2, without(BAD_SCORES, repr(apply)[:50]), "score"),
    "normalize": Arg(jp.scores.mean, NORMALIZERS, "normalize|by|score"),
    "protct": CONSTRAINTS["protct"],
}
"""Of `prune`, whose other options are those of `trace`."""
AXES = bad(None, 3, "a", {"nope*": 0}, {"*": "0"}, {"*": 9}, {"*": 0.5}, {3: 0}, {"*": None})
STATES = bad(None, True, 0.5, "nope", ["nope"], {"0": "nope"}, {"0": 0.5}, {3: None}, [X], b"0")
INDICES = bad(None, 3, "a", [0], {0: 4}, {0: 0}, {0: "4"}, {0: 1.5}, {0: True}, {"nope": 4}, {3: 4})
TRACED = {
    "rules": Arg(jp.RULES, bad(None, 3, "rules", {"add": 3}, {"add": None}, [1]), "rule"),
    "strict": Arg(False, FLAGS, "strict"),
    "layers": Arg({}, AXES, "layers|axis|pattern"),
    "free_outputs": Arg((), NAMED, "free_outputs"),
    "free_constants": Arg(False, FLAGS, "free_constants"),
    "state": Arg((), STATES, "state"),
    "index_inputs": Arg({}, INDICES | bad({None: 4}, {0: None}, {"": 4}), "index_inputs"),
}
