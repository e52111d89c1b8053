"""Gated, narrow and resized mixtures are those written by hand, whatever sends the tokens."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
from expert_networks import DISPATCHES, ROUTINGS, network, variables

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


@st.composite
def mixtures(draw: Any) -> tuple[str, str, int, int, int, dict[str, int]]:
    """Returns routing, dispatch, experts of a token, experts in all, of them kept, and options."""
    experts, k = draw(st.integers(3, 6)), draw(st.integers(1, 3))
    dispatch = draw(st.sampled_from([*DISPATCHES]))
    options = {"places": draw(st.integers(1, 4))} if dispatch == "capacity" else {}
    stay = draw(st.integers(k, experts))
    return draw(st.sampled_from([*ROUTINGS])), dispatch, k, experts, stay, options


@pytest.mark.slow
@example(("mixtral", "repeated", 1, 3, 1, {}), 2, np.float32, 0)  # two rows tell little of counts
@settings(max_examples=60)
@given(mixtures(), st.integers(2, 8), st.sampled_from([*TOLERANCE]), st.integers(0, 99))
def test_fewer_experts_are_those_by_hand(mixture: Any, tokens: int, dtype: Any, seed: int) -> None:
    routing, dispatch, k, experts, stay, options = mixture
    fn = network(routing, dispatch, k, **options)
    v, x = variables(seed, experts, tokens, dtype)
    kept = np.random.default_rng(seed).permutation(experts) < stay
    with jax.enable_x64(True):
        graph = jp.trace(fn, v, x)
        slots = {name: {(s.path, s.axis) for s in g.slots} for name, g in graph.groups.items()}
        (name,) = (name for name, places in slots.items() if ("router", 1) in places)
        keep = {name: kept}
        small = jp.slice(graph, v, keep)
        hand = v | {"router": v["router"][:, kept], "up": v["up"][kept], "down": v["down"][kept]}
        runs = {
            "gate": (lambda v: jp.masked(fn, graph)(v, keep, x), v),
            "narrow": (lambda v: jp.narrow(fn, graph, keep)(v, x), small),
            "resized": (lambda v: jp.resize(fn, graph, keep)(v, x), small),
            "hand": (lambda v: fn(v, x), hand),
        }
        found = jax.jit(lambda vs: {n: run(vs[n]) for n, (run, _) in runs.items()})(
            {n: v for n, (_, v) in runs.items()}
        )
    for each in found.values():
        near = TOLERANCE[dtype] * np.abs(found["hand"]).max()
        np.testing.assert_allclose(each, found["hand"], rtol=0, atol=near)
