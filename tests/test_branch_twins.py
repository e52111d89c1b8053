"""Linen and NNX networks without branches: gate, narrow, resized and written by hand are one."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune.arguments.paths import flatten
from residual_twins import FORMS, LAYERS, NNX_FORMS, TWO, Net, nnx_net

X = np.random.default_rng(1).normal(size=(4, 3))


def drawn(shapes: Any) -> Any:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.uniform(0.2, 1.0, leaf.shape), shapes)


def measured(fn: Any, variables: Any) -> tuple[Any, Any]:
    """Returns the outputs, statistics among them, and the gradients of a sum of them."""

    def loss(variables: Any) -> tuple[Any, Any]:
        outputs = fn(variables, X)
        logits = jax.tree.leaves(outputs[0])[0]
        return jnp.vdot(jnp.cos(jnp.arange(logits.size, dtype=float)), logits.ravel()), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(variables)
    return outputs, gradients


def assert_close(ours: Any, theirs: Any) -> None:
    """Two trees have the same leaves at the same paths."""
    a, b = (flatten(tree)[0] for tree in (ours, theirs))
    assert a.keys() == b.keys()
    for path, leaf in a.items():
        scale = max(1, np.abs(b[path]).max(initial=0))
        assert np.abs(leaf - b[path]).max(initial=0) < 1e-9 * scale, path


class Case:
    """What a network loses, drawn."""

    def __init__(self, forms: tuple[str, ...], graph: jp.ChannelGraph, seed: int):
        random, self.gone, self.layers = np.random.default_rng(seed), set[str](), LAYERS
        branches = jp.branches(graph)
        self.stay: dict[str, Any] = {}
        self.refused = False
        for i, form in enumerate(forms):
            block = f"block_{i}"
            names = [name for name in branches if name.startswith(f"+{block}/")]
            names = [name for name in names if name.count("+") == 1]  # not a sum of terms
            expected = 2 if form in (*TWO, "shared") else 1
            assert len(names) == expected, (form, names)
            if form == "scanned":
                self.scanned(names, block, random)
                continue
            for name in names:
                self.stay[name] = bool(random.random() < 0.5)
                if not self.stay[name]:
                    self.gone.add(name[1:].replace("/down/kernel", ""))
            self.refused |= form == "shared" and len({self.stay[name] for name in names}) == 2
        self.channels = {
            name: random.permuted(np.broadcast_to(np.arange(g.size) < 3, g.shape), axis=-1)
            for name, g in graph.groups.items()
            if "/up/" in name and random.random() < 0.4
        }
        self.keep = {**self.stay, **self.channels}

    def scanned(self, names: list[str], block: str, random: np.random.Generator) -> None:
        """Whole layers go, or a branch of all of them."""
        if random.random() < 0.5:
            stays = random.permuted(np.arange(LAYERS) < random.integers(1, LAYERS + 1))
            self.stay |= dict.fromkeys(names, stays)
            self.layers = int(stays.sum())
        else:
            self.stay[names[0]] = False
            self.gone.add(f"{block}/a")


def check(graph: jp.ChannelGraph, v: Any, case: Case, resize: Any, hand: Any) -> None:
    """The four ways agree, also after another cut and by way of a spec."""
    keep, stay = case.keep, case.stay
    spec = json.loads(json.dumps(jp.spec(graph, keep)))
    again = jp.keep_from_spec(spec, graph)
    assert all(np.all(again[name] == mask) for name, mask in keep.items())
    full, small = jp.mask(graph, v, case.channels), jp.slice(graph, v, keep)
    assert flatten(small)[0].keys() == hand[1].keys()
    gate = measured(lambda v, x: jp.gated(graph.fn, graph)(v, stay, x), full)
    narrow = measured(jp.narrow(graph.fn, graph, keep), small)
    assert_close(narrow[1], jp.slice(graph, gate[1], keep))
    everything, kept = flatten(gate[0])[0], flatten(narrow[0])[0]
    logits = next(iter(kept))
    assert_close({"logits": kept[logits]}, {"logits": everything[logits]})
    if case.refused:
        with pytest.raises(jp.errors.ResizeError):
            resize(keep)
        return
    resized = resize(keep)
    assert_close(measured(resized, small), narrow)
    if not case.channels:
        assert_close(measured(hand[0], small), narrow)
    here = jp.trace(resized, small, X)
    names = set(jp.branches(graph)) - {n for n, mask in stay.items() if not np.any(mask)}
    assert set(jp.branches(here)) <= names
    assert jp.cost.macs(here) == jp.cost.macs(graph, keep)
    second: dict[str, Any] = {
        name: np.arange(g.size) % 4 < 2 for name, g in here.groups.items() if g.inexact is None
    }
    second |= dict.fromkeys(list(jp.branches(here))[-1:], False)
    both = jp.compose(keep, second, graphs=(graph, here))
    assert_close(jp.slice(here, small, second), jp.slice(graph, v, both))
    smaller = jp.slice(here, small, second)
    assert_close(
        jp.narrow(resized, here, second)(smaller, X), jp.narrow(graph.fn, graph, both)(smaller, X)
    )


def check_linen(forms: tuple[str, ...], seed: int) -> None:
    with jax.enable_x64(True):
        module = Net(forms)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), X, True))
        v = drawn(shapes)
        graph = jp.linen.trace(module, v, X, train=True, mutable=["batch_stats"])
        case = Case(forms, graph, seed)
        overrides = {"block_*": {"layers": case.layers}} if case.layers < LAYERS else None

        def call(module: Any) -> Any:
            return lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])

        def resize(keep: Any) -> Any:
            return call(jp.linen.resize(module, graph, keep, overrides=overrides))

        by_hand = Net(forms, frozenset(case.gone), case.layers)
        theirs = jax.eval_shape(lambda: by_hand.init(jax.random.key(0), X, True))
        check(graph, v, case, resize, (call(by_hand), flatten(theirs)[0]))


def check_nnx(forms: tuple[str, ...], seed: int) -> None:
    with jax.enable_x64(True):
        model = nnx_net(forms)
        graph = jp.nnx.trace(model, X)
        v = drawn(jp.nnx.variables(model))
        case = Case(forms, graph, seed)

        def resize(keep: Any) -> Any:
            return jp.nnx.function(jp.nnx.resize(model, graph, keep))

        by_hand = nnx_net(forms, frozenset(case.gone))
        theirs = flatten(jp.nnx.variables(by_hand))[0]
        check(graph, v, case, resize, (jp.nnx.function(by_hand), theirs))


def networks(forms: tuple[str, ...], most: int) -> Any:
    return st.lists(st.sampled_from(forms), min_size=1, max_size=most).map(tuple)


@example(("scanned", "pre"), 1)
@example(("remat", "shared"), 2)
@settings(max_examples=1)
@given(networks(FORMS[:-1], 2), st.integers(0, 2**16))
def test_linen_networks_without_branches(forms: tuple[str, ...], seed: int) -> None:
    check_linen(forms, seed)


@example(("pre", "shared"), 1)
@settings(max_examples=1)
@given(networks(NNX_FORMS, 2), st.integers(0, 2**16))
def test_nnx_networks_without_branches(forms: tuple[str, ...], seed: int) -> None:
    check_nnx(forms, seed)


@settings(max_examples=30)
@given(networks(FORMS, 2), st.integers(0, 2**16))
def test_thirty_linen_networks(forms: tuple[str, ...], seed: int) -> None:
    check_linen(forms, seed)


@settings(max_examples=30)
@given(networks(NNX_FORMS, 2), st.integers(0, 2**16))
def test_thirty_nnx_networks(forms: tuple[str, ...], seed: int) -> None:
    check_nnx(forms, seed)


@pytest.mark.slow
@settings(max_examples=250)
@given(networks(FORMS, 3), st.integers(0, 2**16))
def test_many_linen_networks(forms: tuple[str, ...], seed: int) -> None:
    check_linen(forms, seed)


@pytest.mark.slow
@settings(max_examples=250)
@given(networks(NNX_FORMS, 3), st.integers(0, 2**16))
def test_many_nnx_networks(forms: tuple[str, ...], seed: int) -> None:
    check_nnx(forms, seed)


def test_a_network_without_branches_is_saved_and_read(tmp_path: Any) -> None:
    with jax.enable_x64(True):
        model = nnx_net(("pre", "scaled"))
        graph, v = jp.nnx.trace(model, X), drawn(jp.nnx.variables(nnx_net(("pre", "scaled"))))
        keep = {"+block_0/a/down/kernel": False, "+block_1/a/down/kernel": False}
        small = jp.slice(graph, v, keep)
        jp.save(tmp_path / "small", small, jp.spec(graph, keep))
        restored = jp.restore(tmp_path / "small")
        kept = jp.keep_from_spec(restored.spec, graph)
        ours = jp.nnx.function(jp.nnx.resize(model, graph, kept))(restored.variables, X)
        assert_close(ours, jp.narrow(graph.fn, graph, keep)(small, X))
