"""One call from a network to a smaller one: what the single calls make, with safe defaults."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp


class Layer(nn.Module):
    """The MLP of a transformer on a normalized stream; kernels are `scale` times as large."""

    hidden: int
    scale: float

    @nn.compact
    def __call__(self, x: Any) -> Any:
        init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal")
        y = nn.Dense(self.hidden, kernel_init=init)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(y))


class Stack(nn.Module):
    """Four layers, of which two have smaller kernels, as trained ones do."""

    scales: tuple[float, ...] = (0.5, 1.0, 0.6, 1.1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for scale in self.scales:
            x = Layer(128, scale)(x)
        return nn.Dense(2)(x.mean(1))


class Twin(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.drop = nnx.Linear(3, 16, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.drop(nnx.relu(self.first(x))))


class Mean(nn.Module):
    """The divisor of the mean follows the hidden width."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x))
        return nn.Dense(2)(x - x.mean(axis=-1, keepdims=True))


TOKENS = jnp.ones((1, 4, 32))
STACK = Stack()
WEIGHTS = jax.jit(STACK.init)(jax.random.key(0), TOKENS)
MLPS = "Layer_*/Dense_0/kernel"


def hidden(widths: Any) -> list[int]:
    return [count for name, count in widths.items() if "Layer_" in name and "Dense_0" in name]


def test_raw_norms_empty_single_layers_and_the_default_does_not() -> None:
    """The MLPs lose by their scale, not by their channels, where scores are not normalized."""
    raw = jp.linen.prune(
        STACK, WEIGHTS, TOKENS, keep_macs=0.5, normalize=jp.scores.none, only=MLPS, min_keep_ratio=0
    )
    assert min(hidden(jp.widths(raw.graph, raw.keep))) <= 2
    assert max(hidden(jp.widths(raw.graph, raw.keep))) == 128
    pruned = jp.linen.prune(STACK, WEIGHTS, TOKENS, keep_macs=0.5, only=MLPS)
    assert min(hidden(jp.widths(pruned.graph, pruned.keep))) >= 32


def test_every_group_keeps_a_tenth_unless_told_otherwise() -> None:
    scores = {f"Layer_{i}/Dense_0/kernel": np.full(128, 1.0 + i) for i in range(4)}
    given = {"keep_macs": 0.7, "scores": scores, "normalize": jp.scores.none}
    pruned = jp.linen.prune(STACK, WEIGHTS, TOKENS, **given)
    assert hidden(jp.widths(pruned.graph, pruned.keep))[0] == 13
    pruned = jp.linen.prune(STACK, WEIGHTS, TOKENS, **given, min_keep_ratio=0.0)
    assert hidden(jp.widths(pruned.graph, pruned.keep))[0] == 1


def test_linen_is_the_calls_one_by_one() -> None:
    options: Any = {"multiple_of": 4, "protect": "Layer_0/*", "min_channels": 8}
    pruned = jp.linen.prune(STACK, WEIGHTS, TOKENS, keep_macs=0.6, keep_params=0.9, **options)
    graph = jp.linen.trace(STACK, WEIGHTS, TOKENS)
    scores = jp.scores.normalized(jp.scores.l2(graph, WEIGHTS), by=jp.scores.mean)
    options["min_keep_ratio"] = 0.1
    keep = jp.select.budget(graph, scores, keep_macs=0.6, keep_params=0.9, **options)
    jax.tree.map(np.testing.assert_array_equal, pruned.keep, keep)
    jax.tree.map(np.testing.assert_array_equal, pruned.variables, jp.slice(graph, WEIGHTS, keep))
    model = jp.linen.resize(STACK, graph, keep)
    assert pruned.model == model
    np.testing.assert_array_equal(
        pruned.model.apply(pruned.variables, TOKENS), model.apply(pruned.variables, TOKENS)
    )
    assert str(pruned) == repr(pruned) == str(jp.compare(graph, keep, resized=model))


def test_nnx_is_the_calls_one_by_one() -> None:
    model, x = Twin(nnx.Rngs(0)), jnp.ones((1, 3))
    pruned = jp.nnx.prune(model, x, keep_params=0.5)
    assert (pruned.model.first.out_features, model.first.out_features) == (7, 16)
    assert pruned.keep["first/kernel"].sum() == 7
    assert str(pruned) == str(jp.compare(pruned.graph, pruned.keep, resized=pruned.model))
    assert "draws its own" in str(pruned)
    jax.tree.map(np.testing.assert_array_equal, pruned.variables, jp.nnx.variables(pruned.model))
    model.eval()
    quiet = jp.nnx.prune(model, x, keep_params=0.5)
    assert "draws its own" not in str(quiet)
    assert quiet.model(x).shape == (1, 2)


def test_the_call_and_the_options_of_trace_go_on() -> None:
    module, x = Mean(), jnp.ones((1, 3))
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    pruned = jp.linen.prune(module, variables, x, keep_macs=0.5, train=False)
    assert (len(pruned.follows), pruned.draws) == (1, ())
    assert "follows a width: div" in str(pruned)
    rngs = {"dropout": jax.random.key(0)}
    pruned = jp.linen.prune(module, variables, x, keep_macs=0.5, rngs=rngs)
    assert pruned.draws
    with pytest.raises(jp.errors.TraceError, match="unknown primitive dot_general"):
        jp.linen.prune(module, variables, x, keep_macs=0.5, train=False, strict=True, rules={})


V = {"a": np.float32(np.random.default_rng(0).normal(size=(3, 8))), "b": np.ones((8, 2))}
X = np.ones((1, 3), np.float32)


def reads_its_sizes(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"]) @ v["b"]


def holds_a_size(v: Any, x: Any) -> Any:
    return jax.nn.relu((x @ v["a"]).reshape(-1, 8)) @ v["b"]


def test_a_plain_function_runs_its_own_code_where_it_can() -> None:
    pruned = jp.prune(reads_its_sizes, V, X, keep_macs=0.5)
    assert pruned.not_resized is None
    assert pruned.model.fn is reads_its_sizes
    masked = reads_its_sizes(jp.mask(pruned.graph, V, pruned.keep), X)
    np.testing.assert_allclose(pruned.model(pruned.variables, X), masked, rtol=1e-6)
    assert "narrow" not in str(pruned)


def test_a_function_that_holds_a_size_is_narrowed_and_says_so() -> None:
    pruned = jp.prune(holds_a_size, V, X, keep_macs=0.5)
    assert pruned.not_resized is not None
    assert "reshape" in pruned.not_resized
    assert str(pruned).splitlines()[-1].startswith("The model is that of jp.narrow: ")
    masked = holds_a_size(jp.mask(pruned.graph, V, pruned.keep), X)
    np.testing.assert_allclose(pruned.model(pruned.variables, X), masked, rtol=1e-6)


def test_scores_may_be_ready_or_a_function_and_groups_without_stay_whole() -> None:
    ready = {"a": np.arange(8.0)}
    pruned = jp.prune(reads_its_sizes, V, X, keep_macs=0.5, scores=ready)
    assert np.flatnonzero(pruned.keep["a"]).tolist() == [4, 5, 6, 7]
    pruned = jp.prune(
        reads_its_sizes, V, X, keep_macs=0.5, scores=lambda g, v: jp.scores.l1(g, v, roles=["in"])
    )
    assert np.flatnonzero(pruned.keep["a"]).tolist() == [4, 5, 6, 7]  # all are equal


def test_shapes_are_planned_where_the_scores_need_no_weights() -> None:
    shapes = jax.eval_shape(lambda tree: tree, V)
    pruned = jp.prune(reads_its_sizes, shapes, X, keep_macs=0.5, scores={"a": np.arange(8.0)})
    assert pruned.variables["a"].shape == (3, 4)
    with pytest.raises(jp.errors.TreeError, match=r"\['a'\] are shapes, which have no scores"):
        jp.prune(reads_its_sizes, shapes, X, keep_macs=0.5)


def test_what_cannot_be() -> None:
    for call, error, text in (
        (lambda: jp.prune(reads_its_sizes, V, X), "BudgetError", "no bound: give keep_macs"),
        (
            lambda: jp.prune(reads_its_sizes, V, X, keep_macs=0.01),
            "BudgetError",
            "smallest reachable is 5: a share of 0.125",
        ),
        (
            lambda: jp.prune(STACK, WEIGHTS, TOKENS, keep_macs=0.5),
            "TraceError",
            r"got an object of Stack.\nFix: jp\.linen\.prune",
        ),
        (
            lambda: jp.prune(Twin(nnx.Rngs(0)), X, keep_macs=0.5),
            "TraceError",
            r"got an object of Twin.\nFix: jp\.nnx\.prune",
        ),
        (
            lambda: jp.prune(reads_its_sizes, V, X, keep_mac=0.5),
            "JaxpruneError",
            "reads_its_sizes takes no keyword 'keep_mac'; near: .*keep_macs",
        ),
        (
            lambda: jp.linen.prune(STACK, WEIGHTS, TOKENS, keep_macs=0.5, protct="x"),
            "TraceError",
            "Stack takes no keyword 'protct'; near: .*protect",
        ),
        (
            lambda: jp.nnx.prune(Twin(nnx.Rngs(0)), X, keep_macs=0.5, min_channel=2),
            "TraceError",
            "Twin takes no keyword 'min_channel'; near: .*min_channels",
        ),
        (
            lambda: jp.prune(reads_its_sizes, V, X, keep_macs=0.5, scores="l2"),
            "ScoreError",
            "scores must be a function .*got 'l2'",
        ),
        (
            lambda: jp.prune(reads_its_sizes, V, X, keep_macs=0.5, normalize=None),
            "ScoreError",
            "normalize must be a function, got None",
        ),
        (
            lambda: jp.linen.prune(STACK, WEIGHTS, TOKENS, keep_macs=0.5, overrides={"no": {}}),
            "PatternError",
            "override",
        ),
    ):
        with pytest.raises(getattr(jp.errors, error), match=text) as caught:
            call()
        assert "\nFix: " in str(caught.value)
