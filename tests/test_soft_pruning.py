"""Soft pruning: the paper's loop in NumPy, regrowth, and cuts that change nothing."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import JaxpruneError, KeepError, PatternError, ScoreError, TreeError
from jaxprune.sparsify import Masking, soft_mask, soft_pruning
from modules import ScanBlock
from networks import weights
from sparse_training import Block, Momentum, X, block, close, loss, run, slopes, trained

STREAM, INNER = "down/kernel", "depthwise/kernel"
KEEP = {STREAM: np.array([True, True, False, True]), INNER: np.arange(6) != 1}


def distances(kernel: np.ndarray) -> np.ndarray:
    """Equation 6 of FPGM."""
    filters = kernel.T
    return np.array([sum(np.linalg.norm(f - g) for g in filters) for f in filters])


def lowest(scores: np.ndarray, ratio: float) -> np.ndarray:
    return np.argsort(scores, kind="stable")[: int(len(scores) * ratio + 1e-9)]


@pytest.mark.parametrize(
    ("masking", "score", "measure", "ratio"),
    [
        (Masking.SOFT, jp.scores.l2, lambda w: np.linalg.norm(w, axis=0), None),
        (Masking.SOFT, jp.scores.fpgm, distances, 0.4),
        (Masking.HARD, jp.scores.l2, lambda w: np.linalg.norm(w, axis=0), 0.6),
    ],
)
def test_twenty_steps_against_the_loop_of_the_papers(
    masking: Masking, score: Any, measure: Any, ratio: float | None
) -> None:
    graph, variables = chain(5, 8)
    params = variables["params"]

    def ramp(step: Any) -> Any:
        return step * 0.749 / 19  # at step 20 the larger layer would lose one more

    loop = Momentum(params, 0.05, 0.9, 0.1)
    gone: dict[str, Any] = {"layer_0": [], "layer_1": []}
    for number in range(20):
        loop.step(number)
        if (number + 1) % 4 == 0:
            share = float(ramp(number)) if ratio is None else ratio
            gone = {name: lowest(measure(loop.w[f"{name}/kernel"]), share) for name in gone}
        if masking == Masking.HARD or (number + 1) % 4 == 0:
            for name, channels in gone.items():
                loop.w[f"{name}/kernel"][:, channels] = 0
                if masking == Masking.HARD:
                    loop.w[f"{name}/bias"][channels] = 0
    last = soft_pruning(
        graph,
        score,
        prune_ratio=ramp if ratio is None else ratio,
        period=4,
        masking=masking,
        biases=masking == Masking.HARD,
    )
    got, state, traces = trained(optax.chain(loop.optimizer(), last), params)
    close(got, loop.w)
    assert traces == 1
    keep = optax.tree.get(state, "keep")
    for name, channels in gone.items():
        assert np.flatnonzero(~keep[f"{name}/kernel"]).tolist() == sorted(channels)
        assert len(channels) > 1


def test_the_ramp_goes_through_the_three_points_of_the_paper() -> None:
    for early in (1 / 8, 0.3, 0.7):
        ramp = jp.schedule.asymptotic(0.4, steps=1000, early=early)
        got = [float(ramp(step)) for step in (0, round(1000 * early), 1000, 5000)]
        np.testing.assert_allclose(got, [0, 0.3, 0.4, 0.4], rtol=1e-5)


def test_a_dynamic_mask_trains_the_dense_weights_and_lets_channels_come_back() -> None:
    """One weight in and one out: what is pruned grows by its gradient until it is the larger."""
    params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.ones((2, 1))}
    graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, np.ones((1, 1)))
    tx = soft_pruning(graph, jp.scores.l2, prune_ratio=0.5, period=2, masking=Masking.DYNAMIC)
    state, kept = tx.init(params), []
    for _ in range(6):
        seen = soft_mask(graph, params, state.keep)
        updates, state = tx.update(
            {"a": jnp.array([[0.2, -0.1]]), "b": 0 * params["b"]}, state, params
        )
        params = optax.apply_updates(params, updates)
        kept.append((seen["a"] != 0).ravel().tolist())
    np.testing.assert_allclose(params["a"], [[2.2, 1.4]], rtol=1e-6)
    assert kept == [[True, True]] * 2 + [[False, True]] * 2 + [[True, False]] * 2


def test_a_loss_of_masked_variables_has_the_gradient_at_them() -> None:
    """Straight through, whatever is zeroed: without it what is pruned would never come back."""
    graph, variables = block()
    params = variables["params"]
    for options in ({"spare": "*/down/kernel"}, {"biases": True}, {}):
        seen = soft_mask(graph, variables, KEEP, **options)
        masked = partial(soft_mask, graph, keep=KEEP, **options)
        inside = jax.grad(lambda v, masked=masked: loss(masked(v)))(variables)["params"]
        at = slopes(seen["params"], seen["batch_stats"])
        jax.tree.map(np.testing.assert_array_equal, inside, at)
    assert np.any(inside["down"]["kernel"][..., 2])
    endless = jax.tree.map(lambda w: np.full_like(w, np.inf), params)
    masked = jax.jvp(lambda p: soft_mask(graph, p, KEEP), (params,), (endless,))[1]
    assert np.all(np.isinf(masked["stem"]["kernel"]))


def test_filters_grow_again_where_a_mask_would_hold_them() -> None:
    """Scales, readers and the depthwise kernel stay, so that a gradient comes through."""
    graph, variables = block()
    params = variables["params"]
    lifted = {name: params[name] | {"bias": np.ones(4 + 2 * (name == "up_norm"))} for name in NORMS}
    variables = variables | {"params": params | lifted}
    grows = {}
    for name, tree in {
        "filters": soft_mask(graph, variables, KEEP),
        "biases too": soft_mask(graph, variables, KEEP, biases=True),
        "mask": jp.mask(graph, variables, KEEP),
    }.items():
        found = slopes(tree["params"], tree["batch_stats"])
        places = {"stem": 2, "down": 2, "up": 1}
        grows[name] = [k for k, c in places.items() if np.any(found[k]["kernel"][..., c])]
        assert not any(np.any(tree["params"][k]["kernel"][..., c]) for k, c in places.items())
    assert grows == {"filters": ["stem", "down", "up"], "biases too": ["down"], "mask": []}


NORMS = ("stem_norm", "up_norm", "down_norm")


def test_a_cut_behind_a_soft_mask_changes_the_outputs_by_rounding() -> None:
    graph, variables = block()
    narrow = jp.narrow(Block().apply, graph, KEEP)
    silent = soft_mask(graph, variables, KEEP, biases=True)
    expected = run(silent, X)
    got = narrow(jp.slice(graph, silent, KEEP), X)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected - run(variables, X)).max() > 1e-2
    params, before = silent["params"], variables["params"]
    for path in ("depthwise", "head"):
        np.testing.assert_array_equal(params[path]["kernel"], before[path]["kernel"])
    for path in NORMS:
        np.testing.assert_array_equal(params[path]["scale"], before[path]["scale"])
        kept = KEEP[INNER if path == "up_norm" else STREAM]
        np.testing.assert_array_equal(params[path]["bias"] != 0, kept)
    alone = soft_mask(graph, before, KEEP, biases=True)  # as a training step has them
    jax.tree.map(np.testing.assert_array_equal, alone, params)


def test_constants_of_zeroed_filters_are_absorbed() -> None:
    """With biases that stay a channel emits its bias: one of a chain moves into the next bias."""
    params = {
        "a": {"kernel": np.ones((2, 3)), "bias": np.array([1.0, 2, 3])},
        "b": {"kernel": np.ones((3, 2)), "bias": np.zeros(2)},
    }

    def apply(p: Any, x: Any) -> Any:
        x = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
        return x @ p["b"]["kernel"] + p["b"]["bias"][None]

    graph = jp.trace(apply, params, X[0, 0])
    keep = {"a/kernel": np.array([True, False, True])}
    left = soft_mask(graph, params, keep)
    absorbed = jp.recover.absorb_constants(graph, left, keep)
    small = jp.slice(graph, absorbed.variables, keep)
    np.testing.assert_allclose(
        jp.narrow(apply, graph, keep)(small, X[0, 0]), apply(left, X[0, 0]), rtol=1e-5
    )
    spared = soft_mask(graph, params, keep, biases=True, spare=("a/bias",))
    jax.tree.map(np.testing.assert_array_equal, spared, left)


def test_what_makes_a_channel_and_what_is_added_to_it() -> None:
    """A layer from a stream to itself makes it; a BatchNorm may be folded into one product."""
    v = {name: np.ones((3, 3), np.float32) for name in ("a", "b", "c")}
    v |= {name: np.full(3, 2, np.float32) for name in ("beta", "gamma", "mean", "var")}

    def apply(v: Any, x: Any) -> Any:
        x = x @ v["a"]
        factor = v["gamma"] * jax.lax.rsqrt(v["var"] + 1e-5)
        x = x * factor[None] + (v["beta"] - v["mean"] * factor)[None]
        return (x + jnp.tanh(x @ v["b"])) @ v["c"]

    graph = jp.trace(apply, v, np.ones((1, 3), np.float32))
    found = soft_mask(graph, v, {"a": np.array([True, True, False])}, biases=True)
    assert {name for name in v if np.any(found[name] != v[name])} == {"a", "b", "beta", "mean"}
    assert found["b"].tolist() == [[1, 1, 0]] * 3
    graph, variables = block()
    train = jp.trace(lambda v, x: Block().apply(v, x, True, mutable=["batch_stats"]), variables, X)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(soft_mask(each, variables, KEEP, biases=True) for each in (graph, train)),
    )


def test_every_layer_of_a_stack_has_its_own_choice() -> None:
    module, x = ScanBlock(), np.ones((1, 6), np.float32)
    variables = weights(module, 0, x)
    graph = jp.trace(module.apply, variables, x)
    (name,) = (name for name, group in graph.groups.items() if group.layers)
    tx = soft_pruning(graph, jp.scores.l2, prune_ratio=0.4, period=1, only=(name,))
    zeros = jax.tree.map(jnp.zeros_like, variables)
    updates, state = jax.jit(tx.update)(zeros, tx.init(variables), variables)
    scores = jp.scores.l2(graph, variables)[name]
    count = int(0.4 * scores.shape[1])
    expected = np.argsort(np.argsort(scores, axis=1), axis=1) >= count
    np.testing.assert_array_equal(state.keep[name], expected)
    after = jp.scores.l2(graph, optax.apply_updates(variables, updates))[name]
    np.testing.assert_array_equal(after == 0, ~expected)
    assert len({tuple(row) for row in expected}) > 1


def test_wrapped_by_optax() -> None:
    """Ratios that are injected, parameters of which some are masked out, halves."""
    graph, variables = chain(5, 8)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), variables["params"])
    static = ("graph", "score", "period")
    make = optax.inject_hyperparams(soft_pruning, static_args=static)
    tx = make(graph, jp.scores.l2, prune_ratio=0.625, period=1)
    mask = {name: name != "layer_2" for name in params}
    tx = optax.masked(optax.chain(optax.sgd(0.1), tx), mask)
    got, state, traces = trained(tx, params, 2)
    assert traces == 1
    assert [int((~m).sum()) for m in optax.tree.get(state, "keep").values()] == [3, 5]
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    for name, mask in optax.tree.get(state, "keep").items():
        assert (np.asarray(got[name.split("/")[0]]["kernel"] == 0).all(axis=0) == ~mask).all()


def test_a_channel_stays_and_rounding_does_not_matter() -> None:
    graph, variables = chain(100, 3)
    for ratio, left in ((1.0, [1, 1]), (0.29, [71, 3]), (lambda _: jnp.float32(0.53), [47, 2])):
        tx = soft_pruning(graph, jp.scores.l2, prune_ratio=ratio, period=1)
        zeros = jax.tree.map(jnp.zeros_like, variables)
        _, state = tx.update(zeros, tx.init(variables), variables)
        assert [int(mask.sum()) for mask in state.keep.values()] == left


def test_errors() -> None:
    graph, variables = chain(4, 5)
    params = variables["params"]

    def make(score: Any = jp.scores.l2, **changed: Any) -> Any:
        return soft_pruning(graph, score, **{"prune_ratio": 0.5, "period": 1} | changed)

    def some(graph: Any, tree: Any) -> Any:
        return {"layer_0/kernel": jp.scores.l2(graph, tree)["layer_0/kernel"][1:]}

    with pytest.raises(JaxpruneError, match=r"prune_ratio must be in \[0, 1\], got 1.5.\nFix: "):
        make(prune_ratio=1.5)
    with pytest.raises(JaxpruneError, match=r"masking must be one of \['soft'.*got 'free'.\nFix: "):
        make(masking="free")
    with pytest.raises(PatternError, match="only pattern 'conv' matches none of 2 names"):
        make(only=("conv",))
    with pytest.raises(PatternError, match="leave no group that a kernel makes"):
        make(spare="*/kernel")
    with pytest.raises(TreeError, match=r"(?s)soft_pruning: .*layer_1/kernel.*no such leaf.*Fix: "):
        make().init({"layer_0": params["layer_0"]})
    with pytest.raises(ScoreError) as error:
        make(some).init(params)
    assert re.search(
        r"'layer_0/kernel': \[3\] in place of \[4\], 'layer_1/kernel': None", str(error.value)
    )
    with pytest.raises(
        KeepError, match=r"no kernel makes the channels of groups \['layer_0/kernel'\]"
    ):
        soft_mask(
            graph, variables, {"layer_0/kernel": np.arange(4) < 2}, spare=("*layer_0/kernel",)
        )
    with pytest.raises(JaxpruneError, match="soft_pruning: expected its state"):
        make().update(params, jp.sparsify.PenaltyState(0), params)
