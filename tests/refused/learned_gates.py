"""The rows of learned gates, their laws and multipliers, and of expected costs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from refused.depth import GRAPH as RESIDUAL
from refused.rows import GATES, Row
from refused.values import (
    COUNTS,
    KEYS,
    NAN,
    PATTERNS,
    POSITIVES,
    A,
    Arg,
    B,
    G,
    X,
    apply,
    bad,
    without,
)

LAW = jp.gates.hard_concrete()
FLOATS = bad("1", None, NAN, True, [0.5], 1j, float("inf"), np.ones(2), {})
PARAMS = {name: np.zeros(size, np.float32) for name, size in ((A, 4), (B, 6))}
OPEN: dict[str, Any] = {
    **bad(None, 3, "open", [0.5] * 4, {"nope": X}, {3: X}, {A: 0.5}, {A: None}, {A: [0.5] * 4}),
    "a short one": {A: np.ones(3, np.float32)},
    "bools": {A: np.ones(4, bool)},
}
BAD_PARAMS = without(GATES, "a number for a name") | {
    "{}": {},
    "one is missing": {A: PARAMS[A]},
    "of another law": {A: {"mean": PARAMS[A]}, B: PARAMS[B]},
}
BOUNDS = bad(3, "macs", [jp.cost.macs], {"macs": 0.5}, {jp.cost.macs: 0}, {jp.cost.macs: 10**9})
BOUNDS |= bad({jp.cost.macs: NAN}, {jp.cost.macs: "1"}, {apply: 0.5}, {jp.cost.active_params: 0.5})
PAIR = {"macs": {"linear": jnp.zeros(()), "quadratic": jnp.zeros(())}}
MULTIPLIERS = bad(None, 3, {}, {"macs": 0.0}, {"macs": {"linear": 0.0}}, {"nope": {}}, [X])
EXPECTED = bad(None, 3, "widths", {"nope": 1.0}, {3: 1.0}, {A: -1}, {A: 4.5}, {A: NAN}, {A: "2"})
EXPECTED |= bad({A: np.ones(4)}, {A: True}, {A: 1j}, {"+nope": 0.5}, {A: None}, {A: [[1], [1, 2]]})


def learned(params: Any, key: Any, **kwargs: Any) -> Any:
    """Gates, of which some are drawn."""
    gates = jp.gates.learned(**kwargs)
    return gates.sample(params, key)


def held(open: Any, multipliers: Any, **kwargs: Any) -> Any:
    """The penalty of a constraint."""
    made = jp.gates.lagrangian(**kwargs)
    return made.penalty(open, multipliers, 0)


ROWS: dict[str, Row] = {
    "gates.hard_concrete": Row(
        jp.gates.hard_concrete,
        {
            "temperature": Arg(0.5, POSITIVES, "temperature"),
            "low": Arg(-0.1, FLOATS | bad(0, 0.1), "low"),
            "high": Arg(1.1, FLOATS | bad(1, 0.9), "high"),
            "start": Arg(3.0, FLOATS, "start"),
        },
    ),
    "gates.gaussian": Row(
        jp.gates.gaussian,
        {"threshold": Arg(0.0, FLOATS, "threshold"), "start": Arg(-9.0, FLOATS, "start")},
    ),
    "gates.learned": Row(
        learned,
        {
            "graph": G,
            "law": Arg(LAW, bad(None, 3, "hard_concrete", {}, jp.gates.hard_concrete), "law"),
            "only": Arg([A, B], PATTERNS, "only|kind"),
            "protect": Arg((), PATTERNS, "protect|kind"),
            "branches": Arg((), without(PATTERNS, "a kind that is absent"), "branches"),
            "params": Arg(PARAMS, BAD_PARAMS, "params|gates"),
            "key": Arg(jax.random.key(0), KEYS, "key"),
        },
    ),
    "gates.unlearnable": Row(jp.gates.unlearnable, {"graph": G}),
    "gates.kept": Row(
        jp.gates.kept,
        {"graph": G, "gates": Arg(PARAMS, GATES | {"NaN": {A: [NAN] * 4}}, "gate")},
    ),
    "gates.expected_widths": Row(
        jp.gates.expected_widths, {"graph": G, "open": Arg({A: PARAMS[A]}, OPEN, "open|mapping")}
    ),
    "gates.lagrangian": Row(
        held,
        {
            "graph": G,
            "bounds": Arg({jp.cost.macs: 0.5}, BOUNDS, "bound|share|closed form|cost"),
            "widths": Arg({}, bad(3, A, [A], {"nope": 1}, {A: 0}, {A: 5}, {A: 1.5}, {A: "2"}), "w"),
            "depth": Arg(None, bad(-1, 1.5, "1", True, NAN, [1], 1), "depth"),
            "warmup": Arg(0, without(COUNTS, "0"), "warmup"),
            "open": Arg({A: PARAMS[A]}, OPEN, "open"),
            "multipliers": Arg(PAIR, MULTIPLIERS, "multipliers"),
        },
    ),
    "gates.lagrangian(depth)": Row(
        lambda depth: jp.gates.lagrangian(RESIDUAL, depth=depth),
        {"depth": Arg(1, bad(-1, 3, 1.5, "1", True, None), "depth|no constraint")},
    ),
    "cost.expected": Row(
        jp.cost.expected,
        {
            "graph": G,
            "cost": Arg(
                jp.cost.macs, bad(None, 3, "macs", apply, jp.cost.active_params), "cost|closed"
            ),
            "widths": Arg({A: jnp.float32(2.5)}, EXPECTED, "width"),
        },
    ),
}
