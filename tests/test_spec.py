"""A spec finds the network that it was written for, and names what was edited since."""

import copy
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import spec_networks
from jaxprune.keep.program_description import describe, versions
from spec_networks import GRAPHS, half, images

STORED = {path.stem: json.loads(path.read_text()) for path in spec_networks.FOLDER.glob("*.json")}


def check(graph: jp.ChannelGraph, spec: Any) -> list[str]:
    """Returns the warnings of a check."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        keep = jp.keep_from_spec(spec, graph)
    assert keep.keys() == graph.groups.keys()
    assert all(item.filename == __file__ for item in found)
    return [str(item.message) for item in found]


@pytest.fixture(scope="module")
def other_process():
    """The specs that another process writes, at another batch."""
    code = "import json, spec_networks; print(json.dumps(spec_networks.specs(batch=8)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_description_is_the_same_in_another_process_and_at_another_batch(
    name, batch, other_process
):
    graph = GRAPHS[name](batch)
    assert other_process[name]["description"] == json.loads(json.dumps(describe(graph)))
    assert check(graph, other_process[name]) == []


def case_name(case: tuple[str, str, Any]) -> str:
    name, field, value = case
    return f"{name}-{field}-{getattr(value, '__name__', value)}"


EDITED = {
    ("images", "dilation", 2): r"Conv_1/kernel: dilation \[2, 2\], it was \[1, 1\]",
    ("images", "epsilon", 1e-3): "before params/Conv_1/kernel: the constant 0.001, it was 1e-05",
    ("images", "act", jnp.sin): r"before params/Conv_1/kernel: operation \d+ is sin, it was max",
    ("images", "act", jnp.tanh): r"before params/Conv_1/kernel: operation \d+ is tanh",
    ("images", "pool", 3): "before params/Dense_0/kernel: the same operations",
    ("images", "late", True): r"before params/Dense_0/kernel: operation \d+ is max, it was nothing",
    ("images in training", "epsilon", 1e-3): "the constant 0.001, it was 1e-05",
    ("closure", "epsilon", 1e-3): "the constant 0.001, it was 1e-05",
    ("tokens", "epsilon", 1e-3): "query/kernel: the constant 0.001, it was 1e-06",
    ("model", "epsilon", 1e-3): "before last/kernel: the constant 0.001, it was 1e-05",
    ("model in training", "epsilon", 1e-3): "before last/kernel: the constant 0.001, it was 1e-05",
    ("function", "slope", 0.2): "before b: the constant 0.2, it was 0.1",
}


@pytest.mark.parametrize("case", EDITED, ids=case_name)
def test_an_edit_is_refused_and_named(case, other_process):
    name, field, value = case
    with pytest.raises(jp.errors.SpecError, match=EDITED[case]) as error:
        jp.keep_from_spec(other_process[name], GRAPHS[name](**{field: value}))
    first, *_, fix = str(error.value).splitlines()
    assert first == "the spec was written for another network:"
    assert fix.startswith("Fix: build and trace the network as it was")


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_spec_of_another_jax_is_read(name, stored):
    """The programs of these networks are the same under JAX 0.10 and 0.12."""
    assert check(GRAPHS[name](), STORED[stored][name]) == []


def test_specs_of_two_versions_are_stored():
    assert {name.split(".")[1] for name in STORED} == {"10", "12"}
    assert all(len(json.dumps(spec)) < 6000 for found in STORED.values() for spec in found.values())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("case", EDITED, ids=case_name)
def test_under_another_jax_an_edit_is_a_warning(case, stored):
    name, field, value = case
    graph, spec = GRAPHS[name](**{field: value}), STORED[stored][name]
    same = {"jaxprune": ""} | spec["versions"] == {"jaxprune": ""} | versions()
    other = copy.deepcopy(spec)
    other["versions"]["jax"] = "0.9.1"
    (text,) = check(graph, other if same else spec)
    lines = text.splitlines()
    assert lines[0].startswith("the spec was written with jax 0.")
    with pytest.warns(jp.errors.SpecWarning, match=EDITED[case]):
        jp.check_spec(graph, other)


def test_another_call_is_a_warning_that_names_what_differs(other_process):
    for name, other in (("images", "images in training"), ("model", "model in training")):
        for spec, graph in (
            (other_process[name], GRAPHS[other]()),
            (other_process[other], GRAPHS[name]()),
        ):
            (text,) = check(graph, spec)
            assert text.startswith("the traced call is ")
            assert "train=True" in text or "deterministic=False" in text
            assert "operation" in text


def test_groups_must_agree_whatever_the_call(other_process):
    graph = images(train=True, joined=False)
    with pytest.raises(
        jp.errors.SpecError,
        match=r"axis 2 of params/Conv_0/kernel is|axis 3 of params/Conv_\d/kernel is .*it was",
    ):
        jp.check_spec(graph, other_process["images"])
    spec = copy.deepcopy(other_process["images"])
    spec["description"]["variables"]["params/Dense_9/kernel"] = ["4", "3"]
    with pytest.raises(jp.errors.SpecError, match="variable params/Dense_9/kernel is missing"):
        jp.check_spec(images(train=True), spec)


def test_a_group_that_lost_nothing_may_differ_in_another_call(other_process):
    spec = copy.deepcopy(other_process["images"])
    axes = spec["description"]["variables"]["params/Conv_1/kernel"]
    axes[3] = "12"
    with pytest.raises(jp.errors.SpecError, match=r"axis 3 of params/Conv_1/kernel is Conv_1"):
        jp.check_spec(images(train=True), spec)
    spec["groups"]["Conv_1/kernel"]["kept"] = list(range(12))
    (text,) = check(images(train=True), spec)
    assert "axis 3 of params/Conv_1/kernel is Conv_1/kernel:out, it was 12" in text
    with pytest.raises(jp.errors.SpecError, match=r"axis 3 of params/Conv_1/kernel is Conv_1"):
        jp.check_spec(images(), spec)


def test_other_sizes_of_groups_and_inputs(other_process):
    spec = copy.deepcopy(other_process["images"])
    spec["groups"]["Conv_1/kernel"]["size"] = 16
    with pytest.raises(jp.errors.SpecError, match="'Conv_1/kernel' has 12 channels, it had 16"):
        jp.check_spec(images(), spec)
    spec = copy.deepcopy(other_process["images"])
    spec["description"]["inputs"] = ["float32[*, 16, 16, 3]"]
    assert check(images(), spec) == []  # another call, whose program does not differ


def test_what_a_call_does_not_read_is_not_compared():
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "aux": jnp.ones((8, 4))}
    x = jnp.ones((1, 3))
    train = jp.trace(lambda v, x: ((h := x @ v["a"]) @ v["b"], h @ v["aux"]), v, x)
    with_call = jp.spec(train, half(train))
    with_call["description"] = {**with_call["description"], "call": ["train"]}
    (text,) = check(jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, x), with_call)
    assert "aux" in text.splitlines()[-1]


def test_a_spec_without_a_description_is_read(other_process):
    spec = {key: other_process["images"][key] for key in ("format", "groups", "versions")}
    assert check(images(dilation=2), spec) == []


BROKEN = {
    "empty": {"description": {}},
    "a number": {"description": 3},
    "a kind that is not listed": {"program": [["a", "b", "c"]]},
    "a program of words": {"program": ["abc"]},
    "a group that is not listed": {"groups": []},
    "a kind without its parts": {"kinds": {"a": {}}},
    "a call of numbers": {"call": [3]},
    "no versions": {"versions": None},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_description_that_cannot_be_read(name, other_process, tmp_path):
    spec = copy.deepcopy(other_process["images"])
    outside = BROKEN[name].keys() <= {"description", "versions"}
    (spec if outside else spec["description"]).update(BROKEN[name])
    with pytest.raises(jp.errors.SpecError, match=r"the spec cannot be read: .*\nFix: pass what"):
        jp.check_spec(images(), spec)
    with pytest.raises(jp.errors.CheckpointError, match="spec"):
        jp.save(tmp_path / "x", {"w": np.ones(3)}, spec)


def test_a_description_is_made_once():
    graph = images()
    assert describe(graph) is describe(graph)


def test_a_spec_of_layers_is_read_back_and_uneven_layers_are_not():
    keep = np.array([[True, False, True], [False, True, True]])
    group = {"size": 3, "kept": [np.flatnonzero(row).tolist() for row in keep]}
    spec = {"format": 1, "groups": {"a": group}, "versions": {}}
    np.testing.assert_array_equal(jp.keep_from_spec(spec)["a"], keep)
    group["kept"][0].pop()
    with pytest.raises(jp.errors.KeepError, match="do not keep the same number"):
        jp.keep_from_spec(spec)


def scanned(act):
    step = lambda h, w: (act(h @ w), None)  # noqa: E731
    return lambda v, x: jax.lax.scan(step, x @ v["a"], v["w"])[0] @ v["b"]


def branched(act):
    return lambda v, x: (
        jax.lax.cond(x[0, 0] > 0, act, jnp.negative, x @ v["a"]) @ v["b"] + 0 * (v["w"].sum())
    )


def looped(act):
    def fn(v, x):
        step = lambda state: (state[0] + 1, act(state[1] @ v["w"][0]))  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, x @ v["a"]))[1] @ v["b"]

    return fn


@pytest.mark.parametrize("network", [scanned, branched, looped])
def test_what_was_edited_inside_of_a_loop_or_a_branch_is_found(network):
    v = {"a": np.ones((2, 4)), "w": np.ones((3, 4, 4)), "b": np.ones((4, 3))}
    graph = jp.trace(network(jnp.tanh), v, np.ones((1, 2)))
    spec = jp.spec(graph, {})
    jp.check_spec(jp.trace(network(jnp.tanh), v, np.ones((1, 2))), spec)
    with pytest.raises(jp.errors.SpecError, match=r"is sin, it was tanh") as error:
        jp.check_spec(jp.trace(network(jnp.sin), v, np.ones((1, 2))), spec)
    assert "the same operations" not in str(error.value)


def test_a_spec_says_what_the_call_may_write():
    module, x = nn.Dense(3), np.ones((1, 2), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    spec = jp.spec(jp.linen.trace(module, variables, x, mutable=False), {})
    assert spec["description"]["call"] == ["__call__(array)"]
    other = [[name, kind, "other"] for name, kind, _ in spec["description"]["program"]]
    edited = spec | {"description": spec["description"] | {"program": other}}
    for mutable, words in ((True, "all"), ("cache", r"\['cache'\]"), (["a", "b"], r"\['a', 'b'\]")):
        graph = jp.linen.trace(module, variables, x, mutable=mutable)
        with pytest.warns(jp.errors.SpecWarning, match=rf"mutable={words}; before: __call__"):
            jp.check_spec(graph, edited)
