"""The channel graph: names, roles, slots, what is frozen and why."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

import jaxprune as jp
from jaxprune.program import outputs
from jaxprune.program import spaces as ax

mystery = Primitive("mystery")
mystery.def_abstract_eval(lambda x: x)


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


X = shape(1, 3)


class Block(nn.Module):
    """Convolution, normalization, and an operation of the user's choice."""

    features: int
    op: Callable[[Any], Any] = nn.relu

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        x = nn.Conv(self.features, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return self.op(x)


class Network(nn.Module):
    """Two blocks, attention over the positions, a head."""

    op: Callable[[Any], Any] = nn.relu

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        x = Block(8)(x, train=train)
        x = Block(6, self.op)(x, train=train)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, name="attn")(x)
        return nn.Dense(5)(x.mean(1))


IMAGE = shape(1, 2, 2, 3)
NAMES = {
    "Block_0/conv/kernel": 8,
    "Block_1/conv/kernel": 6,
    "attn/out/kernel": 6,
    "attn/key/kernel[1]": 2,
    "attn/key/kernel[2]": 4,
    "attn/value/kernel[2]": 4,
}


def variables_of(module: nn.Module) -> Any:
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), IMAGE)


def traced(module: nn.Module, *, train: bool = False, **options: Any) -> jp.ChannelGraph:
    mutable = ["batch_stats"] if train else False

    def fn(v: Any, x: Any) -> Any:
        return module.apply(v, x, train=train, mutable=mutable)

    return jp.trace(fn, variables_of(module), IMAGE, **options)


def sizes(graph: jp.ChannelGraph) -> dict[str, int]:
    return {name: group.size for name, group in graph.groups.items()}


def slots(graph: jp.ChannelGraph, name: str) -> list[tuple[str, int, str]]:
    return [(slot.path, slot.axis, slot.role) for slot in graph.groups[name].slots]


def mlp(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"] + v["b"][None]) @ v["c"]


MLP = {"a": shape(3, 8), "b": shape(8), "c": shape(8, 2)}


def test_names_are_the_paths_of_the_first_out_slots() -> None:
    assert sizes(traced(Network())) == NAMES


def test_slots_say_where_and_how_a_group_is_used() -> None:
    graph = traced(Network())
    assert slots(graph, "Block_0/conv/kernel") == [
        ("batch_stats/Block_0/BatchNorm_0/mean", 0, "vector"),
        ("batch_stats/Block_0/BatchNorm_0/var", 0, "vector"),
        ("params/Block_0/BatchNorm_0/bias", 0, "vector"),
        ("params/Block_0/BatchNorm_0/scale", 0, "vector"),
        ("params/Block_0/conv/bias", 0, "vector"),
        ("params/Block_0/conv/kernel", 3, "out"),
        ("params/Block_1/conv/kernel", 2, "in"),
    ]
    assert slots(graph, "attn/key/kernel[2]") == [
        ("params/attn/key/bias", 1, "vector"),
        ("params/attn/key/kernel", 2, "out"),
        ("params/attn/query/bias", 1, "vector"),
        ("params/attn/query/kernel", 2, "out"),
    ]


def test_positions_of_a_group_in_a_concatenation_and_in_a_product() -> None:
    def fn(v: Any, x: Any) -> Any:
        a, b = x @ v["a"], x @ v["b"]
        left = jnp.concatenate([a, b], -1) @ v["c"]
        return left, (a[..., None] * b[:, None]).reshape(len(x), -1) @ v["d"]

    given = {"a": shape(3, 2), "b": shape(3, 4), "c": shape(6, 2), "d": shape(8, 2)}
    graph = jp.trace(fn, given, X)
    found = {(g, s.path): s.positions.tolist() for g in "ab" for s in graph.groups[g].slots}
    assert found == {
        ("a", "a"): [[0], [1]],
        ("a", "c"): [[0], [1]],
        ("a", "d"): [[0, 1, 2, 3], [4, 5, 6, 7]],
        ("b", "b"): [[0], [1], [2], [3]],
        ("b", "c"): [[2], [3], [4], [5]],
        ("b", "d"): [[0, 4], [1, 5], [2, 6], [3, 7]],
    }


def test_several_groups_of_one_kernel_are_told_apart() -> None:
    def fn(v: Any, x: Any) -> Any:
        q, k = jnp.split(x @ v["qk"], 2, -1)
        return q @ v["a"] + k.reshape(1, 2, 4).sum(1) @ v["b"]

    graph = jp.trace(fn, {"qk": shape(3, 16), "a": shape(8, 2), "b": shape(4, 2)}, X)
    assert sizes(graph) == {"qk[1.0]": 8, "qk[1.2]": 4, "qk[1.1]": 2}


def test_no_two_groups_share_a_name() -> None:
    """Two axes of one elementwise variable; no contraction makes an `out` slot."""
    given = {"a": shape(3, 4), "p": shape(3), "q": shape(4)}
    graph = jp.trace(lambda v, x: v["p"] @ (jnp.sin(v["a"]) * x) @ v["q"], given, shape())
    assert sizes(graph) == {"a[0]": 3, "a[1]": 4}
    atoms = {atom for v in graph.variables.values() for axis in v.axes for atom in ax.atoms(axis)}
    assert len(graph.groups) == sum(atom.reason is None and atom.size > 1 for atom in atoms)


def test_roles_of_an_embedding() -> None:
    given = {"table": shape(10, 4), "a": shape(4, 2)}
    graph = jp.trace(
        lambda v, i: v["table"][i] @ v["a"], given, jax.ShapeDtypeStruct((2,), np.int32)
    )
    assert slots(graph, "table") == [("a", 0, "in"), ("table", 1, "out")]
    (frozen, *_) = [f for f in graph.frozen if f.path == "table"]
    assert (frozen.axis, frozen.reason) == (0, "indexed by gather")


def test_train_mode_has_the_groups_of_eval_mode() -> None:
    graph, train = traced(Network()), traced(Network(), train=True)
    assert sizes(graph) == sizes(train)
    for name in NAMES:
        assert slots(graph, name) == slots(train, name)
        assert (graph.groups[name].inexact is None) == (train.groups[name].inexact is None)


def test_frozen_axes_say_why_and_where_in_the_module() -> None:
    frozen = {(f.path, f.axis): f for f in traced(Network()).frozen}
    window = frozen["params/Block_1/conv/kernel", 0]
    assert (window.size, window.reason) == (3, "window of a convolution")
    assert window.place.endswith("Block_1/conv")
    assert frozen["params/Block_0/conv/kernel", 2].reason == "axis of an input"
    assert frozen["params/Dense_0/kernel", 1].reason == "output"
    assert ("params/Dense_0/kernel", 0) not in frozen


@pytest.mark.parametrize("sort", [jnp.sort, jax.lax.sort], ids=["jnp", "lax"])
def test_frozen_axes_say_the_line_in_a_plain_function(sort: Callable[[Any], Any]) -> None:
    def fn(v: Any, x: Any) -> Any:
        return sort(x @ v["a"]) @ v["c"]

    graph = jp.trace(fn, {"a": shape(3, 8), "c": shape(8, 2)}, X)
    assert not graph.groups
    place = next(f.place for f in graph.frozen if f.reason == "sorted")
    line = fn.__code__.co_firstlineno + 1
    assert f"test_graph.py:{line}" in place
    assert "fn" in place


def test_an_unknown_primitive_freezes_and_is_named() -> None:
    graph = traced(Network(op=mystery.bind))
    assert sizes(graph) == {k: v for k, v in NAMES.items() if k != "Block_1/conv/kernel"}
    found = {f.path: f for f in graph.frozen if f.reason == "unknown primitive mystery"}
    assert "params/Block_1/conv/kernel" in found
    assert {f.place for f in found.values()} == {"Network/Block_1"}


def test_strict_refuses_an_unknown_primitive() -> None:
    with pytest.raises(jp.errors.TraceError) as caught:
        traced(Network(op=mystery.bind), strict=True)
    assert str(caught.value) == (
        "unknown primitive mystery at Network/Block_1: its axes cannot be followed.\n"
        "Fix: trace(..., rules=jp.RULES | {'mystery': rule}), or strict=False to freeze what it "
        "touches."
    )


@pytest.mark.parametrize(
    "rule", [lambda op: [list(op.ins[0])], jp.Rule(lambda op: [list(op.ins[0])])]
)
def test_a_rule_of_the_user_makes_the_primitive_known(rule: Any) -> None:
    graph = traced(Network(op=mystery.bind), strict=True, rules=jp.RULES | {"mystery": rule})
    assert sizes(graph) == NAMES
    assert "mystery" not in jp.RULES


def test_unused_variables_are_frozen_and_say_so() -> None:
    graph = jp.trace(mlp, MLP | {"spare": shape(4)}, X)
    assert sizes(graph) == {"a": 8}
    assert [f.reason for f in graph.frozen if f.path == "spare"] == ["not used by the function"]


def test_shapes_are_enough_and_nothing_is_allocated() -> None:
    huge = {"a": shape(3, 10**6), "b": shape(10**6), "c": shape(10**6, 10**6), "d": shape(10**6, 2)}
    graph = jp.trace(lambda v, x: mlp(v, x) @ v["d"], huge, shape(10**6, 3))  # terabytes
    assert sizes(graph) == {"a": 10**6, "c": 10**6}
    half = {"a": np.arange(10**6) % 2 == 0}
    small = jp.slice(graph, huge, half)
    assert small["c"].shape == (5 * 10**5, 10**6)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"x": {"y": shape(3, 8)}, "z": [shape(8), shape(8, 2)]}, ["x/y"]),
        ((shape(3, 8), shape(8), shape(8, 2)), ["0"]),
        ([Layer(shape(3, 8), shape(8)), shape(8, 2)], ["0/kernel"]),
        ({"params": {"x": Layer(shape(3, 8), shape(8)), "y": shape(8, 2)}}, ["x/kernel"]),
        ((shape(3, 8), None, (), shape(8), shape(8, 2)), ["0"]),
    ],
)
def test_variables_may_be_any_tree(tree: Any, names: list[str]) -> None:
    def fn(v: Any, x: Any) -> Any:
        return mlp(dict(zip("abc", jax.tree.leaves(v), strict=True)), x)

    assert list(jp.trace(fn, tree, X).groups) == names


def test_inputs_may_be_any_tree_too() -> None:
    graph = jp.trace(lambda v, x, y: mlp(v, x["a"][0]) + y, MLP, {"a": [X]}, shape(1, 2))
    assert sizes(graph) == {"a": 8}


def test_what_is_no_array_is_an_error() -> None:
    with pytest.raises(jp.errors.TraceError) as caught:
        jp.trace(mlp, MLP | {"rate": 0.1, "name": "mlp"}, X)
    assert str(caught.value) == (
        "variables ['name', 'rate'] are not arrays.\n"
        "Fix: close over what is not an array (Equinox: eqx.partition(model, eqx.is_array)), or "
        "wrap it with jnp.asarray."
    )


def test_an_output_that_mirrors_a_variable_is_tied_to_it() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = x @ v["params"]["a"]
        mean = 0.9 * v["batch_stats"]["norm"]["mean"] + 0.1 * h.mean(0)
        return (h - mean[None]) @ v["params"]["c"], {"batch_stats": {"norm": {"mean": mean}}}

    given = {
        "params": {"a": shape(3, 8), "c": shape(8, 2)},
        "batch_stats": {"norm": {"mean": shape(8)}},
    }
    graph = jp.trace(fn, given, shape(4, 3))
    assert sizes(graph) == {"a": 8}

    def elsewhere(v: Any, x: Any) -> Any:
        out, updates = fn(v, x)
        return out, {"seen": updates["batch_stats"]["norm"]["mean"]}

    other = jp.trace(elsewhere, given, shape(4, 3))
    assert not other.groups
    assert {f.reason for f in other.frozen} >= {"axis of output '1/seen'"}


@pytest.mark.parametrize("train", [False, True])
def test_names_stay_after_pruning(train: bool) -> None:
    graph = traced(Network(), train=train)
    kept = {"Block_0/conv/kernel": 5, "Block_1/conv/kernel": 1, "attn/key/kernel[1]": 1}
    kept |= {"attn/value/kernel[2]": 3}
    keep = {name: np.arange(NAMES[name]) >= NAMES[name] - k for name, k in kept.items()}
    module = jp.linen.resize(Network(), graph, keep)
    small = jp.slice(graph, variables_of(Network()), keep)
    mutable = ["batch_stats"] if train else False
    again = jp.trace(lambda v, x: module.apply(v, x, train=train, mutable=mutable), small, IMAGE)
    assert sizes(again) == {k: v for k, v in {**NAMES, **kept}.items() if v > 1}


def test_tracing_twice_gives_the_same_graph() -> None:
    first, second = traced(Network()), traced(Network())
    assert str(first) == str(second)
    assert list(first.groups) == list(second.groups)
    assert first.frozen == second.frozen


def test_the_graph_cannot_be_changed() -> None:
    graph = jp.trace(mlp, MLP, X)
    with pytest.raises(AttributeError):
        graph.groups = {}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        graph.groups["a"] = None  # pyright: ignore[reportIndexIssue]


def test_an_output_mirrors_the_variable_with_the_longer_path() -> None:
    v = {"a": jnp.ones((3, 8)), "bn": {"mean": jnp.ones(8)}, "block": {"bn": {"mean": jnp.ones(8)}}}
    v["head"] = jnp.ones((8, 2))

    def fn(v: Any, x: Any) -> Any:
        y = x @ v["a"]
        z = jax.nn.relu(y - v["bn"]["mean"][None])
        updates = {"bn": {"mean": y.mean(0)}, "block": {"bn": {"mean": z.mean(0)}}}
        return (z - v["block"]["bn"]["mean"][None]) @ v["head"], updates

    graph = jp.trace(fn, v, jnp.ones((2, 3)))
    assert {name: len(group.slots) for name, group in graph.groups.items()} == {"a": 4}


def test_named_outputs_stay_free() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.relu(x @ v["a"])
        return {"features": {"hidden": h}, "logits": h @ v["b"]}

    v, x = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}, jnp.ones((2, 3))
    assert not jp.trace(fn, v, x).groups
    graph = jp.trace(fn, v, x, free_outputs=["features/*"])
    assert list(graph.groups) == ["a"]
    keep = {"a": np.arange(8) < 5}
    small = jp.slice(graph, v, keep)
    assert jp.narrow(fn, graph, keep)(small, x)["features"]["hidden"].shape == (2, 5)
    assert "exact" in str(jp.verify(graph, fn, keep, v, x, resized=fn))
    with pytest.raises(jp.errors.PatternError, match="free_outputs pattern 'featurs' matches none"):
        jp.trace(fn, v, x, free_outputs=["featurs"])


def test_a_state_beside_the_outputs_mirrors_the_variables():
    """Haiku's `(logits, state)`, where the statistics are written and never read."""
    v = {
        "params": {"w": jnp.ones((3, 8)), "u": jnp.ones((8, 2))},
        "state": {"norm": {"average": jnp.ones(8), "mean": jnp.ones(5)}},
    }

    def fn(v, x):
        y = x @ v["params"]["w"]
        state = {"norm": {"average": y.mean(0), "mean": v["state"]["norm"]["mean"]}}
        return y @ v["params"]["u"], state

    graph = jp.trace(fn, v, jnp.ones((2, 3)))
    (group,) = graph.groups.values()
    assert group.name == "w"
    assert [slot.path for slot in group.slots] == [
        "params/u", "params/w", "state/norm/average",
    ]  # fmt: skip
    assert ("state/norm/mean", "not used by the function") in {
        (frozen.path, frozen.reason) for frozen in graph.frozen
    }


def test_an_output_of_one_name_mirrors_no_variable_that_ends_with_it():
    """`{"mean": …}` is a result, beside whatever module has a variable `mean`."""
    leaves = {"norm/mean": np.ones(3), "norm/scale": np.ones(3)}
    assert outputs.twins({"mean": np.ones(3)}, leaves) == [None]
    assert outputs.twins((np.ones(3), {"mean": np.ones(3)}), leaves) == [None, None]
    assert outputs.twins({"norm": {"mean": np.ones(3)}}, leaves) == [0]


def test_an_output_that_several_variables_end_with_mirrors_none():
    leaves = dict.fromkeys(("x/norm/mean", "y/norm/mean", "y/norm/var"), np.ones(3))
    output = {"norm": {"mean": np.ones(3), "var": np.ones(3)}}
    assert outputs.twins(output, leaves) == [None, 2]
    assert outputs.twins((np.ones(3), output["norm"]), {"": np.ones(3)}) == [None] * 3
    assert outputs.twins(np.ones(3), {"": np.ones(3)}) == [0]
