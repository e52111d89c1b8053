"""A gate of zero, the narrow function and the network written by hand are one, for any branches."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
import residual_networks as networks
from residual_networks import FORMS

Forms = st.lists(st.sampled_from(FORMS), min_size=1, max_size=3).map(tuple)
X = np.random.default_rng(1).normal(size=(3, 3))


def measured(fn: Any, variables: Any) -> tuple[Any, Any]:
    """Returns the outputs, and the gradients of a sum of them."""

    def loss(variables: Any) -> tuple[Any, Any]:
        out = fn(variables, X)
        return jnp.vdot(jnp.cos(jnp.arange(out.size, dtype=out.dtype)), out.ravel()), out

    gradients, out = jax.grad(loss, has_aux=True)(variables)
    return out, gradients


def assert_close(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        scale = max(1, np.abs(b).max(initial=0))
        assert np.abs(a - b).max(initial=0) < 1e-9 * scale, jax.tree_util.keystr(path)


def check(forms: tuple[str, ...], seed: int) -> None:
    with jax.enable_x64(True):
        variables, fn = networks.variables(forms), networks.network(forms)
        graph = jp.trace(fn, variables, X)
        assert sorted(jp.branches(graph)) == networks.names(forms)
        keep = networks.drawn_keep(graph, np.random.default_rng(seed))
        stored = json.loads(json.dumps(jp.spec(graph, keep)))
        again = jp.keep_from_spec(stored, graph)
        assert all(np.array_equal(again.pop(name), mask) for name, mask in keep.items())
        assert all(mask.all() for mask in again.values())
        kept = {name: mask for name, mask in keep.items() if name in jp.branches(graph)}
        channels = {name: mask for name, mask in keep.items() if name not in kept}
        full, small = jp.mask(graph, variables, channels), jp.slice(graph, variables, keep)

        def gated(v, x):
            return jp.gated(fn, graph)(v, kept, x)

        runs = {
            "gate": (gated, full),
            "narrow": (jp.narrow(fn, graph, keep), small),
            "hand": (networks.network(forms, kept), full),
        }
        functions = {name: run for name, (run, _) in runs.items()}
        program = jax.jit(lambda vs: {n: measured(functions[n], v) for n, v in vs.items()})
        found = jax.device_get(program({name: v for name, (_, v) in runs.items()}))
        assert_close(found["gate"], found["hand"])
        assert_close(found["narrow"][0], found["hand"][0])
        assert_close(found["narrow"][1], jp.slice(graph, found["hand"][1], keep))
        everywhere = jp.unslice(graph, found["narrow"][1], keep)
        assert_close(jp.mask(graph, found["gate"][1], channels), everywhere)
        fresh = jp.trace(runs["narrow"][0], small, X)
        for cost in (jp.cost.macs, jp.cost.params, jp.cost.weights, jp.cost.activation_bytes):
            assert cost(graph, keep) == cost(fresh)


@example(("pre", "parallel", "scanned"), 0)
@example(("scanned", "shared"), 1)
@example(("nested", "remat", "jitted"), 2)
@example(("post", "activated", "dropped"), 3)
@settings(max_examples=6)
@given(Forms, st.integers(0, 2**16))
def test_without_branches(forms: tuple[str, ...], seed: int) -> None:
    check(forms, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.sampled_from(FORMS), min_size=1, max_size=5).map(tuple), st.integers(0, 2**16))
def test_without_branches_on_many(forms: tuple[str, ...], seed: int) -> None:
    check(forms, seed)
