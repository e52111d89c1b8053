"""Reports: whole texts of small graphs."""

import cProfile
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import KeepError, PatternError
from jaxprune.groups import dataflow
from jaxprune.inspecting import explain as explaining
from jaxprune.inspecting import tables
from jaxprune.inspecting.explain import explain
from jaxprune.program import reasons
from jaxprune.program.rules import base

A, B = "layer_0/kernel", "layer_1/kernel"
X = np.ones((1, 2), np.float32)


def ones(**shapes):
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_comparison_is_a_table_and_holds_the_figures():
    channels, _ = chain(4, 5)
    keep = {A: np.array([True, False, True, False]), B: np.arange(5) > 0}
    result = jp.compare(channels, keep)
    assert str(result) == (
        "group             before  after    kept\n"
        "---------------------------------------\n"
        "layer_0/kernel         4      2  50.0 %\n"
        "layer_1/kernel         5      4  80.0 %\n"
        "---------------------------------------\n"
        "channels               9      6  66.7 %\n"
        "MACs                  43     24  55.8 %\n"
        "parameters            55     33  60.0 %\n"
        "activation bytes      48     36  75.0 %"
    )
    assert result.macs == ("MACs", 2 * 4 + 4 * 5 + 5 * 3, 2 * 2 + 2 * 4 + 4 * 3)
    assert result.macs.ratio == 24 / 43
    assert [change.after for change in result.groups] == [2, 4]
    assert jp.compare(channels, {}).params.ratio == 1


def test_comparison_checks_the_keep_first():
    channels, _ = chain(4)
    with pytest.raises(KeepError, match="layer_0/kernel"):
        jp.compare(channels, {A: np.zeros(4, bool)})


def test_graph_as_a_table():
    channels, _ = chain(4, 1000)
    assert tables.graph_table(channels) == (
        "2 channel groups with 1,004 channels, 3 frozen axes; 7,008 MACs, 8,015 parameters\n"
        "group           channels  slots   MACs  params  kind\n"
        "-------------------------------------------------------------\n"
        "layer_0/kernel         4      3  1,002   1,003  hidden  exact\n"
        "layer_1/kernel     1,000      3      7       8  hidden  exact\n"
        "-------------------------------------------------------------\n"
        "frozen: 2 x output\n"
        "frozen: 1 x axis of an input\n"
        "MACs and params are those of one channel; jaxprune.explain(graph) says more."
    )
    assert str(channels) == tables.graph_table(channels)


def test_explanation_of_everything():
    channels, _ = chain(4)
    assert explain(channels) == (
        "1 channel groups with 4 channels, 3 frozen axes; 20 MACs, 27 parameters\n"
        "\n"
        "group layer_0/kernel: 4 channels (hidden), exact\n"
        "  one channel is 5 MACs and 6 parameters:\n"
        "    out     params/layer_0/kernel axis 1\n"
        "    in      params/layer_1/kernel axis 0\n"
        "    vector  layer_0: bias\n"
        "\n"
        "cannot be pruned:\n"
        "  1 axis: it meets an axis of an input\n"
        "    params/layer_0/kernel axis 0\n"
        "  2 axes: it is an axis of the output\n"
        "    params/layer_1/bias axis 0, params/layer_1/kernel axis 1"
    )


def test_explanation_of_a_variable_with_and_without_its_collection():
    channels, _ = chain(4, 5)
    text = explain(channels, "params/layer_1/kernel")
    first, groups = text.split("\n\n", 1)
    assert first == (
        "variable params/layer_1/kernel, shape (4, 5)\n"
        "  axis 0, size 4: goes with group layer_0/kernel (in)\n"
        "  axis 1, size 5: goes with group layer_1/kernel (out)"
    )
    assert "group layer_0/kernel: 4 channels" in groups
    assert "group layer_1/kernel: 5 channels" in groups
    assert explain(channels, "layer_1/kernel") == text
    assert "cannot be pruned: it is an axis of the output" in explain(channels, "layer_2/b*")


def test_explanation_of_a_group_and_of_a_module():
    channels = jp.trace(
        lambda v, x: jnp.tanh(x @ v["a"]["w"]).reshape(1, 3, 2)[:, 0] @ v["b"]["w"],
        {"a": {"w": np.ones((2, 6))}, "b": {"w": np.ones((2, 3))}},
        X,
    )
    text = explain(channels, "a/w")
    assert text.startswith("variable a/w, shape (2, 6)")
    assert explain(channels, "a") == explain(channels, "a/") == text
    name = next(iter(channels.groups))
    assert f"group {name}: " in text


def test_explanation_says_where_a_group_sits_in_a_concatenation_and_a_flattening():
    def fn(v, x):
        both = jnp.concatenate([x @ v["a"], x @ v["b"], x], axis=1)
        return both @ v["c"], jnp.repeat(x @ v["d"], 2, axis=0).reshape(1, -1) @ v["e"]

    channels = jp.trace(fn, ones(a=(2, 3), b=(2, 4), c=(9, 2), d=(2, 5), e=(10, 2)), X)
    assert "in   c axis 0  positions 3 to 6" in explain(channels, "b")
    assert "in   e axis 0  2 positions per channel" in explain(channels, "d")
    assert explain(channels, "c").split("\n\n")[0] == (
        "variable c, shape (9, 2)\n"
        "  axis 0, size 9: goes with group a (in);\n"
        "    goes with group b (in);\n"
        "    a part of size 2 cannot be pruned: it meets an axis of an input\n"
        "  axis 1, size 2: cannot be pruned: it is an axis of output '0'"
    )


def test_explanation_of_an_inexact_group_and_of_single_indices():
    def fn(v, x):
        return jax.nn.sigmoid(x @ v["a"]).sum(axis=1, keepdims=True) @ v["b"]

    channels = jp.trace(fn, ones(a=(2, 3), b=(1, 2)), X)
    text = explain(channels, "?")
    assert "group a: 3 channels (hidden), inexact (masked and sliced differ): reduce_sum" in text
    assert "axis 0, size 1: cannot be pruned: it is a single index" in text
    assert "  inexact\n" in tables.graph_table(channels)


def test_a_function_without_groups():
    channels = jp.trace(lambda v, x: x + v["bias"][None], ones(bias=(2,)), X)
    assert tables.graph_table(channels).startswith("0 channel groups with 0 channels, 1 frozen")
    assert "it meets an axis of an input\n    bias axis 0" in explain(channels)
    assert "channels               0" in str(jp.compare(channels, {}))


def block(v, x):
    """A residual block, in which `gate` gates the channels."""
    h = x @ v["stem"]
    h = h + jax.nn.relu(h @ v["up"]) @ v["down"]
    return (h * jax.nn.sigmoid(x @ v["gate"])) @ v["head"]


def test_explanation_says_by_what_a_group_is_tied():
    shapes = ones(stem=(2, 4), up=(4, 3), down=(3, 4), gate=(2, 4), head=(4, 2))
    channels = jp.trace(block, shapes, X)
    text = explain(channels, "gate")
    (ties,) = re.findall(r"  tied by:\n((?:    .*\n?)+)", text)
    lines = [
        re.sub(r" at \S+test_report\.py:\d+:\d+ \(block\)", "", li) for li in ties.splitlines()
    ]
    assert lines == ["    add: stem, down", "    mul: add, gate"]
    assert "tied by" not in explain(channels).split("group up:")[1].split("\n\n")[0]


def test_explanation_of_weights_that_are_used_twice():
    def fn(v, x):
        return jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["b"] @ v["c"]

    channels = jp.trace(fn, ones(a=(2, 3), b=(3, 3), c=(3, 2)), X)
    line = explain(channels, "b").splitlines()[-1]
    assert line.startswith("    b, used at ")
    assert line.count("test_report.py:") == 2


def test_explanation_of_query_key_and_value_dims_that_one_reshape_ties():
    def fn(v, x):
        q, k, u = jnp.moveaxis((x @ v["qkv"]).reshape(*x.shape[:-1], 3, 2, 4), -3, 0)
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        return jnp.einsum("bhts,bshd->bthd", weights, u).reshape(*x.shape[:-1], -1) @ v["out"]

    channels = jp.trace(fn, ones(qkv=(3, 24), out=(8, 5)), np.ones((1, 6, 3), np.float32))
    assert {name: group.size for name, group in channels.groups.items()} == {
        "qkv[1.0]": 2,
        "qkv[1.1]": 4,
    }
    for name, count in (("qkv[1.0]", 12), ("qkv[1.1]", 6)):
        text = explain(channels, name)
        line = text.split(f"group {name}:")[1].split("tied by:")[1].split("\n\n")[0]
        assert "reshape([1, 6, 24]) -> [1, 6, 3, 2, 4] at " in line
        assert line.rstrip().endswith(f": {count} positions of an axis are one channel")


def table(v, x):
    return (x @ v["a"] + jnp.arange(6.0)[None]) @ v["b"]


def constant(v, x):
    return (x @ v["a"] + np.ones((1, 6), np.float32)) @ v["b"]


def sorts(v, x):
    return jnp.sort(x @ v["a"], axis=1) @ v["b"]


def callback(v, x):
    h = x @ v["a"]
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(h.shape, h.dtype), h) @ v["b"]


def shuffled(v, x):
    h = x @ v["a"]
    return (h + h.reshape(-1, 3, 2).swapaxes(1, 2).reshape(-1, 6)) @ v["b"]


VARIABLE = "way out: hand that array to the function as a variable"


@pytest.mark.parametrize(
    ("fn", "words", "way_out"),
    [
        (table, "positions are counted along it (jnp.arange), by iota", VARIABLE),
        (constant, "it meets a constant array of the function", VARIABLE),
        (sorts, "sorting forgets which channel is which, by sort", None),
        (
            callback,
            "no rule says what pure_callback does to it, by pure_callback",
            "jp.RULES | {'pure_callback': rule}",
        ),
        (shuffled, "an operation meets (3 * 2) and (2 * 3), of which the", "the same order"),
    ],
)
def test_explanation_of_what_froze_an_axis_and_the_way_out(fn, words, way_out):
    channels = jp.trace(fn, ones(a=(2, 6), b=(6, 2)), X)
    line, *more = explain(channels, "a").split("\n\n")[0].splitlines()[2:]
    assert f"cannot be pruned: {words}" in line
    assert fn is constant or "test_report.py:" in line
    assert (way_out in more[0]) if way_out else not more
    assert words in explain(channels)


def test_the_way_out_of_a_counted_axis_leads_out():
    def fn(v, x):
        return (x @ v["a"] + v["table"]) @ v["b"]

    channels = jp.trace(fn, ones(a=(2, 6), b=(6, 2), table=(1, 6)), X)
    assert channels.groups["a"].size == 6


def test_every_reason_is_given_somewhere():
    """Words of a reason that nothing gives would never be shown."""
    library = pathlib.Path(tables.__file__).parents[1]
    files = [path for path in library.rglob("*.py") if path.name != "reasons.py"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    named = {name for name, why in vars(reasons).items() if isinstance(why, reasons.Why)}
    assert named - set(re.findall(r"[A-Z_]+", source)) == set()


def test_a_path_that_matches_nothing():
    channels, _ = chain(4)
    with pytest.raises(PatternError, match=r"path 'layer_9/kernel' matches none .*layer_0/kernel"):
        explain(channels, "layer_9/kernel")


def wide(blocks):
    """A graph of a residual stream with a group for each block."""

    def fn(v, x):
        x = x @ v["stem"]
        for i in range(blocks):
            x = x + jnp.tanh(x @ v[f"u{i}"]) @ v[f"d{i}"]
        return x.sum(1)

    names = [f"{name}{i}" for i in range(blocks) for name in "ud"]
    return jp.trace(fn, ones(stem=(2, 2), **dict.fromkeys(names, (2, 2))), X)


@pytest.mark.parametrize("look", [str, explain, lambda g: str(jp.compare(g, {}))])
def test_reports_take_as_many_calls_as_there_are_groups(look):
    def calls(groups):
        channels, profile = wide(groups), cProfile.Profile()
        text = profile.runcall(look, channels)
        assert text.count("\n") > groups
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(400) < 4.4 * calls(100)


def test_what_meets_again_after_another_is_tied():
    def fn(v, x):
        y = x @ v["a"]
        return jnp.concatenate([y, x @ v["b"], jnp.tanh(y) + x @ v["c"]], 1) @ v["d"]

    channels = jp.trace(fn, ones(a=(2, 3), b=(2, 4), c=(2, 3), d=(10, 2)), X)
    (node,) = [node for node in dataflow.nodes(channels) if node.name == "concatenate"]
    assert node.ties == ("a",)


def test_places_of_channels_are_those_of_their_positions():
    def fn(v, x):
        y = jnp.concatenate([x @ v["a"], x @ v["b"], x @ v["a"]], 1)
        z = jnp.einsum("ni,nj->nij", y, y).reshape(len(x), -1)
        return z @ v["c"], y.reshape(1, -1) @ v["d"]

    channels = jp.trace(
        fn, ones(a=(2, 3), b=(2, 4), c=(100, 2), d=(20, 2)), np.ones((2, 2), np.float32)
    )
    places = explaining._Places()
    for group in channels.groups.values():
        for slot in group.slots:
            rows = slot.positions
            assert places.of(slot) == (rows[0, 0], rows[-1, 0], rows.shape[1]), slot


def test_a_reason_of_a_user_may_have_braces():
    def rule(op):
        why = reasons.Why("meets {x} and {0}", "meets {x}, {} too", "leave {x} out")
        base.freeze(op.ins[0], why, op)
        return [base.frozen(op.out_shapes[0], why, op)]

    rules = jp.RULES | {"tanh": jp.Rule(rule)}
    shapes = ones(a=(2, 8), b=(8, 2))
    channels = jp.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], shapes, X, rules=rules)
    assert "meets {x} and {0}" in {frozen.reason for frozen in channels.frozen}
    assert "leave {x} out" in explain(channels)
    assert "meets {x}, {} too" in explain(channels)


def test_an_axis_is_explained_with_its_place_and_a_summary_without() -> None:
    v = {"k": np.ones((3, 3, 4)), "w": np.ones((4, 2))}
    sizes = ("NWC", "WIO", "NWC")
    conv = jax.lax.conv_general_dilated
    graph = jp.trace(
        lambda v, x: conv(x, v["k"], (1,), "SAME", dimension_numbers=sizes).mean(1) @ v["w"],
        v,
        np.ones((1, 5, 3)),
    )
    window = "it is the window of a convolution"
    assert f"axis 0, size 3: cannot be pruned: {window}, by conv_general" in explain(graph, "k")
    assert f"1 axis: {window}\n    k axis 0" in explain(graph)
    assert "<function" not in repr(graph)


def test_a_depthwise_convolution_ties_what_goes_through_it() -> None:
    v = {"a": np.ones((1, 3, 8)), "d": np.ones((3, 1, 8)), "b": np.ones((8, 2))}

    def fn(v, x):
        sizes = ("NWC", "WIO", "NWC")
        for kernel, groups in ((v["a"], 1), (v["d"], 8)):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1,), "SAME", dimension_numbers=sizes, feature_group_count=groups
            )
        return x.mean(1) @ v["b"]

    graph = jp.trace(fn, v, np.ones((1, 5, 3)))
    ties = {node.kernels: node.ties for node in dataflow.nodes(graph) if node.kernels}
    assert ties == {("a",): (), ("d",): ("a",), ("b",): ()}
