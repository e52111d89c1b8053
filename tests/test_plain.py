"""Plain functions at the kept widths: they run as they are, or an error names the equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)
V = {
    name: RANDOM.normal(size=shape).astype(np.float32)
    for name, shape in {"q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 7), "end": (7, 3)}.items()
}


def network(v, x, heads=4):
    q, k, u = (jnp.reshape(x @ v[name], (*x.shape[:2], heads, -1)) for name in "qkv")
    scores = jnp.einsum("bshd,bthd->bhst", q, k) / np.sqrt(q.shape[-1])
    mixed = jnp.einsum("bhst,bthd->bshd", jax.nn.softmax(scores), u)
    return jax.nn.relu(mixed.reshape(*x.shape[:2], -1) @ v["o"]) @ v["end"]


@pytest.fixture(scope="module")
def graph():
    return jp.trace(network, V, X)


def kept(graph, *names):
    return {name: np.arange(graph.groups[name].size) % 2 == 1 for name in names}


def test_a_function_that_reads_its_sizes_runs_as_it_is(graph):
    keep = kept(graph, "o", "v[1.1]")
    small = jp.slice(graph, V, keep)
    resized = jp.resize(network, graph, keep)
    assert resized.follows == ()
    found = jax.jit(resized)(small, X)
    np.testing.assert_allclose(found, jp.narrow(network, graph, keep)(small, X), rtol=1e-5)
    np.testing.assert_allclose(found, network(jp.mask(graph, V, keep), X), rtol=1e-5, atol=1e-5)


def test_constants_that_follow_a_width_are_listed(graph):
    (follows,) = jp.resize(network, graph, kept(graph, "k[1.1]")).follows
    assert follows.startswith("div([2, 4, 5, 5], []) -> [2, 4, 5, 5] at ")
    assert follows.endswith("test_plain.py:20:13 (network): 1.41421 became 1")


def test_a_size_that_the_function_holds_is_an_error(graph):
    with pytest.raises(jp.errors.ResizeError) as error:
        jp.resize(network, graph, kept(graph, "k[1.0]"))
    first, fix = str(error.value).splitlines()
    assert first.startswith(
        "the resized network is not the same network: reshape([2, 5, 8]) -> [2, 5, 4, 2] at "
    )
    assert first.endswith(
        "(network.<locals>.<genexpr>) should give [2, 5, 2, 2] at the kept widths, gives "
        "[2, 5, 4, 1] (near the variable q)."
    )
    assert fix.startswith("Fix: make the function read that size from the shape of an array")
    assert fix.endswith("or run jp.narrow(fn, graph, keep), which takes any function.")


def test_a_function_with_the_right_sizes_is_taken_for_it(graph):
    keep = kept(graph, "k[1.0]")
    small = jp.slice(graph, V, keep)
    found = jp.resize(lambda v, x: network(v, x, heads=2), graph, keep)(small, X)
    np.testing.assert_allclose(found, jp.narrow(network, graph, keep)(small, X), rtol=1e-5)


def test_what_does_not_run_says_where():
    def fixed(v, x):
        return jnp.reshape(x @ v["a"], (2, 8)) @ v["b"]

    v = {"a": np.ones((3, 8), np.float32), "b": np.ones((8, 2), np.float32)}
    graph = jp.trace(fixed, v, np.ones((2, 3), np.float32))
    with pytest.raises(jp.errors.ResizeError) as error:
        jp.resize(fixed, graph, kept(graph, "a"))
    first, place, fix = str(error.value).splitlines()
    assert first.startswith("the function does not run at the kept widths: ")
    assert "cannot reshape array" in first
    assert place.startswith("at ")
    assert place.endswith("(test_what_does_not_run_says_where.<locals>.fixed)")
    assert fix.startswith("Fix: ")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda v, x: 2 * network(v, x), r"dot_general.* is followed by mul\("),
        (lambda v, x: (network(v, x), x), "the function gave 1 results, now 2"),
        (lambda v, x: jnp.tanh(network(v, x[:, :2])), r"dot_general.* became slice\("),
        (lambda v, x: x @ v["absent"], r"does not run at the kept widths: .*'absent'"),
    ],
)
def test_another_function_is_an_error(graph, other, text):
    with pytest.raises(jp.errors.ResizeError, match=text) as error:
        jp.resize(other, graph, kept(graph, "o"))
    assert str(error.value).endswith(
        "\nFix: pass the function that was traced, or correct this one; it differs from the traced "
        "one at the full widths too."
    )


def test_variables_of_another_structure_or_width_are_refused(graph):
    keep = kept(graph, "o")
    resized = jp.resize(network, graph, keep)
    with pytest.raises(jp.errors.TreeError, match=r"'o' has shape \(8, 7\), the graph has \(8, 3"):
        resized(V, X)
    small = jp.slice(graph, V, keep)
    with pytest.raises(jp.errors.TreeError, match=r"\['end'\] are missing"):
        resized({name: leaf for name, leaf in small.items() if name != "end"}, X)
    with pytest.raises(jp.errors.TreeError, match="'params/end' is not a variable of the graph"):
        resized({"params": small}, X)


def test_a_wrong_keep_is_refused(graph):
    with pytest.raises(jp.errors.KeepError, match="'absent'"):
        jp.resize(network, graph, {"absent": np.ones(3, bool)})


def test_narrow_runs_a_mode_that_leaves_variables_unused():
    def trained(v, x):
        y = x @ v["a"]
        hidden = 0.9 * v["s"]["m"]["hidden"] + 0.1 * y.mean(0)
        return y @ v["b"], {"m": {"hidden": hidden, "average": hidden / 2}}

    def evaluated(v, x):
        return (x @ v["a"] - v["s"]["m"]["average"][None]) @ v["b"]

    shapes = {"a": (3, 8), "b": (8, 2), "s": {"m": {"hidden": 8, "average": 8}}}
    v, x = (
        jax.tree.map(
            lambda shape: RANDOM.normal(size=shape).astype(np.float32),
            tree,
            is_leaf=lambda leaf: not isinstance(leaf, dict),
        )
        for tree in (shapes, (4, 3))
    )
    graph = jp.trace(trained, v, x)
    keep = kept(graph, "a")
    small = jp.slice(graph, v, keep)
    assert jp.narrow(trained, graph, keep)(small, x)[1]["m"]["average"].shape == (4,)
    found = jp.narrow(evaluated, graph, keep)(small, x)
    np.testing.assert_allclose(found, evaluated(jp.mask(graph, v, keep), x), rtol=1e-5, atol=1e-5)


def other_constant(v, x):
    h = x @ v["a"]
    return (h * jnp.asarray(np.arange(1.0, h.shape[-1] + 1)[None], jnp.float32)) @ v["b"]


def more_at_the_end(v, x):
    y = (x @ v["a"]) @ v["b"]
    return y if len(v["b"]) == 4 else -y


def raises_inside(v, x):
    def helper(h):
        if h.shape[-1] != 4:
            raise ValueError("four")
        return h

    return helper(x @ v["a"]) @ v["b"]


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (other_constant, r"has a constant of shape \(1, 4\), now \(1, 2\)"),
        (more_at_the_end, r"dot_general.* is followed by neg"),
        (
            raises_inside,
            r"ValueError: four\nat .*test_plain.py:\d+ \(raises_inside.<locals>.helper",
        ),
    ],
)
def test_the_first_difference_is_named(fn, text):
    v = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 2), np.float32)}
    graph = jp.trace(fn, v, np.ones((1, 3), np.float32), free_constants=True)
    with pytest.raises(jp.errors.ResizeError, match=text):
        jp.resize(fn, graph, {"a": np.arange(4) >= 2})
