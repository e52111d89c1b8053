"""Reports: whole texts of small graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chains import chain
from jaxprune import graph, report
from jaxprune.errors import KeepError, PatternError

A, B = "layer_0/kernel", "layer_1/kernel"
X = np.ones((1, 2), np.float32)


def ones(**shapes):
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_comparison_is_a_table_and_holds_the_figures():
    channels, _ = chain(4, 5)
    keep = {A: np.array([True, False, True, False]), B: np.arange(5) > 0}
    result = report.compare(channels, keep)
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
    assert report.compare(channels, {}).params.ratio == 1


def test_comparison_checks_the_keep_first():
    channels, _ = chain(4)
    with pytest.raises(KeepError, match="layer_0/kernel"):
        report.compare(channels, {A: np.zeros(4, bool)})


def test_graph_as_a_table():
    channels, _ = chain(4, 1000)
    assert report.graph_table(channels) == (
        "2 channel groups with 1,004 channels, 3 frozen axes; 7,008 MACs, 8,015 parameters\n"
        "group           channels  slots   MACs  params\n"
        "-----------------------------------------------------\n"
        "layer_0/kernel         4      3  1,002   1,003  exact\n"
        "layer_1/kernel     1,000      3      7       8  exact\n"
        "-----------------------------------------------------\n"
        "frozen: 2 x output\n"
        "frozen: 1 x axis of an input\n"
        "MACs and params are those of one channel; jaxprune.explain(graph) says more."
    )
    assert str(channels) == report.graph_table(channels)


def test_explanation_of_everything():
    channels, _ = chain(4)
    assert report.explain(channels) == (
        "1 channel groups with 4 channels, 3 frozen axes; 20 MACs, 27 parameters\n"
        "\n"
        "group layer_0/kernel: 4 channels, exact\n"
        "  one channel is 5 MACs and 6 parameters:\n"
        "    vector  params/layer_0/bias axis 0\n"
        "    out     params/layer_0/kernel axis 1\n"
        "    in      params/layer_1/kernel axis 0\n"
        "\n"
        "frozen axis                   size  why\n"
        "params/layer_0/kernel axis 0     2  axis of an input\n"
        "params/layer_1/bias axis 0       3  output\n"
        "params/layer_1/kernel axis 1     3  output"
    )


def test_explanation_of_a_variable_with_and_without_its_collection():
    channels, _ = chain(4, 5)
    text = report.explain(channels, "params/layer_1/kernel")
    first, groups = text.split("\n\n", 1)
    assert first == (
        "variable params/layer_1/kernel, shape (4, 5)\n"
        "  axis 0, size 4: goes with group layer_0/kernel (in)\n"
        "  axis 1, size 5: goes with group layer_1/kernel (out)"
    )
    assert "group layer_0/kernel: 4 channels" in groups
    assert "group layer_1/kernel: 5 channels" in groups
    assert report.explain(channels, "layer_1/kernel") == text
    assert "cannot be pruned: output" in report.explain(channels, "layer_2/b*")


def test_explanation_says_where_a_group_sits_in_a_concatenation_and_a_flattening():
    def fn(v, x):
        both = jnp.concatenate([x @ v["a"], x @ v["b"], x], axis=1)
        return both @ v["c"], jnp.repeat(x @ v["d"], 2, axis=0).reshape(1, -1) @ v["e"]

    channels = graph.trace(fn, ones(a=(2, 3), b=(2, 4), c=(9, 2), d=(2, 5), e=(10, 2)), X)
    assert "in   c axis 0  positions 3 to 6" in report.explain(channels, "b")
    assert "in   e axis 0  2 positions per channel" in report.explain(channels, "d")
    assert report.explain(channels, "c").split("\n\n")[0] == (
        "variable c, shape (9, 2)\n"
        "  axis 0, size 9: goes with group a (in);\n"
        "    goes with group b (in);\n"
        "    a part of size 2 cannot be pruned: axis of an input\n"
        "  axis 1, size 2: cannot be pruned: axis of output '0'"
    )


def test_explanation_of_an_inexact_group_and_of_single_indices():
    def fn(v, x):
        return jax.nn.sigmoid(x @ v["a"]).sum(axis=1, keepdims=True) @ v["b"]

    channels = graph.trace(fn, ones(a=(2, 3), b=(1, 2)), X)
    text = report.explain(channels, "?")
    assert "group a: 3 channels, inexact (masked and sliced differ): reduce_sum" in text
    assert "axis 0, size 1: cannot be pruned: it is a single index" in text
    assert "  inexact\n" in report.graph_table(channels)


def test_a_function_without_groups():
    channels = graph.trace(lambda v, x: x + v["bias"][None], ones(bias=(2,)), X)
    assert report.graph_table(channels).startswith("0 channel groups with 0 channels, 1 frozen")
    assert "bias axis 0     2  " in report.explain(channels)
    assert "channels               0" in str(report.compare(channels, {}))


def test_a_path_that_matches_nothing():
    channels, _ = chain(4)
    with pytest.raises(PatternError, match=r"path 'layer_9/kernel' matches none .*layer_0/kernel"):
        report.explain(channels, "layer_9/kernel")
