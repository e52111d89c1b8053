"""What `held` promises of every optimizer; the tally; the penalty on gates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import chain
from jaxprune import schedule
from jaxprune.errors import JaxpruneError, KeepError, ScoreError, TreeError
from jaxprune.schedule import Part, Training
from jaxprune.sparsify.gates import l1_gates

GRAPH, VARIABLES = chain(4, 5)
A, B = "layer_0/kernel", "layer_1/kernel"
KEEP = {A: np.array([True, False, True, False]), B: np.array([True, True, False, True, True])}
OPTIMIZERS = {
    "sgd": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9, nesterov=True)),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "masked": optax.masked(optax.sgd(0.1, 0.9), lambda p: jax.tree.map(lambda _: True, p)),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.ema(0.9), optax.scale(-0.1)),
    "penalty": optax.chain(jp.sparsify.oicsr(GRAPH, 0.1), optax.sgd(0.1, momentum=0.9)),
}


def noise(tree: Any, seed: int) -> Any:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), tree)


def steps(tx: Any, params: Any, state: Any, count: int, **extra: Any) -> tuple[Any, Any]:
    update = jax.jit(tx.update)
    for seed in range(count):
        g = noise(params, seed)
        updates, state = update(g, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("name", "wrapped"), [*((name, True) for name in OPTIMIZERS), ("sgd", False)]
)
def test_nothing_moves_what_is_held(name: str, wrapped: bool) -> None:
    """After momentum has built up: not the pruned, not the frozen, and it does not come back."""
    params = VARIABLES if wrapped else VARIABLES["params"]

    def mask(tree: Any) -> Any:
        return jp.mask(GRAPH, tree if wrapped else {"params": tree}, KEEP)

    def layers(tree: Any) -> Any:
        return tree["params"] if wrapped else tree

    trained = jax.tree_util.tree_map_with_path(
        lambda path, _: "layer_1" not in jax.tree_util.keystr(path), params
    )
    free = schedule.masked_updates(OPTIMIZERS[name], GRAPH)
    moving, state = steps(free, params, free.init(params), 3)
    assert not np.array_equal(layers(moving)["layer_1"]["bias"], layers(params)["layer_1"]["bias"])
    tx = schedule.masked_updates(OPTIMIZERS[name], GRAPH, trained)
    held, later = steps(tx, moving, state, 3, keep=KEEP)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), params)
    pruned = jax.tree.unflatten(
        jax.tree.structure(params), [kept == 0 for kept in jax.tree.leaves(mask(ones))]
    )
    for (path, old), new, gone, on in zip(
        jax.tree_util.tree_leaves_with_path(moving),
        *map(jax.tree.leaves, (held, pruned, trained)),
        strict=True,
    ):
        still = gone if on else np.ones_like(gone)
        np.testing.assert_array_equal(np.asarray(new)[still], np.asarray(old)[still], str(path))
        assert not np.any(np.asarray(new)[~still] == np.asarray(old)[~still]), path
    _, moments = jax.tree.flatten(params)
    for before, after in zip(_like(moments, state), _like(moments, later), strict=True):
        for old, new, gone, on in zip(
            *map(jax.tree.leaves, (before, after, pruned, trained)), strict=True
        ):
            if on:
                assert not np.asarray(new)[gone].any()
                assert np.asarray(new)[~gone].all()
            else:
                np.testing.assert_array_equal(new, old)


def _like(treedef: Any, state: Any) -> list[Any]:
    """The parts of a state that mirror the parameters."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: jax.tree.structure(node) == treedef)
    return [node for node in nodes if jax.tree.structure(node) == treedef]


def test_the_optimizer_sees_no_gradient_of_what_is_held() -> None:
    """Not even in a norm: however large it is, the others move as if it were zero."""
    trained = jax.tree_util.tree_map_with_path(
        lambda path, _: "layer_2" not in jax.tree_util.keystr(path), VARIABLES
    )
    tx = schedule.masked_updates(
        optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0)), GRAPH, trained
    )
    small = noise(VARIABLES, 0)
    masked = jp.mask(GRAPH, small, KEEP)
    large = jax.tree.map(lambda kept, whole: kept + 1e3 * (whole - kept), masked, small)
    large["params"]["layer_2"] = jax.tree.map(lambda leaf: 1e3 * leaf, small["params"]["layer_2"])
    one, other = (tx.update(g, tx.init(VARIABLES), VARIABLES, keep=KEEP)[0] for g in (small, large))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
    assert np.any(one["params"]["layer_0"]["kernel"])


def test_held_without_anything_to_hold_is_the_optimizer() -> None:
    plain = OPTIMIZERS["adamw"]
    tx = schedule.masked_updates(plain, GRAPH)
    expected = jax.tree.leaves(steps(plain, VARIABLES, plain.init(VARIABLES), 2))
    whole = {name: np.ones(group.size, bool) for name, group in GRAPH.groups.items()}
    for extra in ({}, {"keep": whole}):
        got = jax.tree.leaves(steps(tx, VARIABLES, tx.init(VARIABLES), 2, **extra))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_held_slices_with_the_network() -> None:
    """A masked step then a cut is a cut then a step: parameters and momentum."""
    plain = OPTIMIZERS["sgd"]
    tx = schedule.masked_updates(plain, GRAPH)
    params, state = steps(tx, jp.mask(GRAPH, VARIABLES, KEEP), tx.init(VARIABLES), 3, keep=KEEP)
    small = jp.slice(GRAPH, params, KEEP)
    cut = jp.slice_opt_state(GRAPH, state, KEEP, tx=tx, params=params)
    g = jax.tree.map(np.ones_like, params)
    full, _ = jax.jit(tx.update)(g, state, params, keep=KEEP)
    narrow, _ = jax.jit(plain.update)(jp.slice(GRAPH, g, KEEP), cut, small)
    for one, other in zip(
        *map(jax.tree.leaves, (jp.slice(GRAPH, full, KEEP), narrow)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_oicsr_in_rounds() -> None:
    """Train with the penalty, prune by energy, cut, go on; no layer loses more than half."""
    training = Training(epochs=1, rates=schedule.constant(0.02), strength=0.1)
    plan = schedule.iterative(keep_macs=(0.7, 0.5), prune_ratio=0.12, training=training)
    progress = schedule.begin(GRAPH, keep_macs=0.5, max_prune_ratio=0.5)
    params, done, seen = VARIABLES, None, []
    while done := plan(done, progress.left()):
        if done.training:
            penalty = jp.sparsify.oicsr(progress.graph, done.training.strength)
            rate = done.training.learning_rate(3)
            tx = schedule.masked_updates(optax.chain(penalty, optax.sgd(rate, 0.9)), progress.graph)
            params, _ = steps(tx, params, tx.init(params), 3, keep=progress.keep)
        if done.prune:
            energy = jp.scores.channel_energy(progress.graph, params)
            progress = progress.prune(done.prune, energy)
            params = jp.mask(progress.graph, params, progress.keep)
        if done.commit:
            params = jp.slice(progress.graph, params, progress.keep)
            graph = jp.trace(GRAPH.fn, jax.device_get(params), *GRAPH.inputs)
            progress = progress.commit(graph)
        seen.append(done.name)
    rounds = [name for name in seen if name.startswith("train")]
    assert len(rounds) >= 3
    assert [name for name in seen if name not in rounds] == ["commit-1", "commit-2"]
    assert seen[-1] == "commit-2"
    assert jp.cost.macs(progress.graph) <= 0.5 * jp.cost.macs(GRAPH)
    assert all(2 * kept.sum() >= kept.size for kept in progress.total.values())


def test_gates_of_their_own_are_held() -> None:
    gates = jp.gates.unit(GRAPH)
    tx = schedule.masked_updates(optax.chain(l1_gates(0.1), optax.sgd(0.1, momentum=0.9)), GRAPH)
    params, state = steps(tx, gates, tx.init(gates), 2)
    params, state = steps(tx, before := params, state, 2, keep=KEEP)
    for name, kept in KEEP.items():
        np.testing.assert_array_equal(params[name][~kept], before[name][~kept])
        assert (params[name][kept] != before[name][kept]).all()


def test_errors_of_held() -> None:
    with pytest.raises(TreeError, match=r"does not mirror the parameters[\s\S]*Fix: jaxprune.sch"):
        schedule.masked_updates(optax.sgd(0.1), GRAPH, {"a": True}).init(VARIABLES)
    ones = jax.tree.map(lambda _: jnp.array(True), VARIABLES)
    with pytest.raises(JaxpruneError, match=r"outside of the compiled step[\s\S]*Fix: one step"):
        schedule.masked_updates(optax.sgd(0.1), GRAPH, ones).init(VARIABLES)
    tx, foreign = schedule.masked_updates(optax.sgd(0.1), GRAPH), {A: jnp.ones(3)}
    with pytest.raises(TreeError, match=rf"{A}' of shape \(3,\)[\s\S]*Fix: pass the parameters"):
        tx.update(foreign, tx.init(foreign), foreign, keep=KEEP)
    with pytest.raises(KeepError, match=r"which the graph does not have"):
        tx.update(VARIABLES, tx.init(VARIABLES), VARIABLES, keep={"other": KEEP[A]})
    fn = lambda v, x: (x @ v["a"]).sum()  # noqa: E731
    v = {"a": jnp.ones((2, 3))}
    with pytest.raises(TreeError, match=r"says what the head is[\s\S]*Fix: head="):
        schedule.trainable(jp.trace(fn, v, jnp.ones((1, 2))), v, Part.GATES)


def test_a_tally_names_the_batch_that_failed() -> None:
    add = jax.jit(lambda tally, scores: tally.add(scores))
    tally = schedule.tally(GRAPH, [A])
    with pytest.raises(ScoreError, match=r"no batch was added[\s\S]*Fix: tally ="):
        tally.scores()
    for value in (1.0, 2.0):
        tally = add(tally, {A: jnp.full(4, value)})
    np.testing.assert_array_equal(tally.scores()[A], np.full(4, 3, np.float32))
    tally = add(tally, {A: jnp.array([1, jnp.nan, 1, 1])})
    tally = add(tally, {A: jnp.array([1, jnp.inf, 1, 1])})
    with pytest.raises(ScoreError, match=r"batch 3 of 4 gave scores that are not finite[\s\S]*Fix"):
        tally.scores()
    np.testing.assert_array_equal(tally.sums[A], np.full(4, 3, np.float32))
    with pytest.raises(ScoreError, match=r"differ in the groups \['layer_1/kernel'\][\s\S]*Fix"):
        tally.add({A: jnp.ones(4), B: jnp.ones(5)})
    with pytest.raises(ScoreError, match=r"no group is scored[\s\S]*Fix"):
        schedule.tally(GRAPH, [])
    with pytest.raises(ScoreError, match=r"no group \['other'\][\s\S]*Fix"):
        schedule.tally(GRAPH, ["other"])


def test_l1_gates_is_the_penalty_of_the_paper() -> None:
    params, zeros = VARIABLES, jax.tree.map(np.zeros_like, VARIABLES)
    mask = jax.tree_util.tree_map_with_path(lambda p, _: "bias" in jax.tree_util.keystr(p), params)
    tx = l1_gates(0.5, mask)
    updates, _ = tx.update(zeros, tx.init(params), params)
    for name, layer in params["params"].items():
        np.testing.assert_array_equal(updates["params"][name]["bias"], 0.5 * np.sign(layer["bias"]))
        assert not np.any(updates["params"][name]["kernel"])
    with pytest.raises(JaxpruneError, match=r"l1_gates: strength must be finite[\s\S]*Fix: start"):
        l1_gates(-1.0)
    with pytest.raises(TreeError, match="l1_gates: the mask does not mirror"):
        l1_gates(1.0, {"a": True}).init(params)
