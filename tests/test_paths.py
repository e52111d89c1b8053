"""A leaf has a path of its own, or the tree is refused; a name covers itself."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx, struct

import jaxprune as jp
from jaxprune.arguments import paths
from jaxprune.errors import PatternError, TreeError

X = np.ones((2, 4), np.float32)


@struct.dataclass
class Fields:
    value: object
    other: object


@jax.tree_util.register_pytree_with_keys_class
class Twice:
    """Two leaves whose keys differ, and read the same."""

    def __init__(self, first, second, keys=(1, "1")):
        self.leaves, self.keys = (first, second), keys

    def tree_flatten_with_keys(self):
        both = zip(map(jax.tree_util.DictKey, self.keys), self.leaves, strict=True)
        return tuple(both), self.keys

    @classmethod
    def tree_unflatten(cls, keys, leaves):
        return cls(*leaves, keys=keys)


COLLIDING = {
    "a slash": {"a/b": 1, "a": {"b": 2}},
    "a slash in the middle": {"a": {"b/c": {"d": 1}, "b": {"c": {"d": 2}}}},
    "a slash at the end": {"a": {"": 1}, "a/": 2},
    "a slash at the start": {"": {"a": 1}, "/a": 2},
    "a place in a tuple": {"a": (1, 2), "a/1": 3},
    "a place in a list": [{"0": 1}, [2], {"0/1": 3, "0": {"1": 4}}],
    "an attribute": {"a": Fields(value=1, other=2), "a/other": 3},
    "a box": {"a": nn.Partitioned(1, names=()), "": {}, "b": {"a": 1}, "b/a": 2},
    "an int and a string": {"a": Twice(1, 2)},
    "a bool and a string": Twice(1, 2, keys=(True, "True")),
}


@pytest.mark.parametrize("tree", COLLIDING.values(), ids=COLLIDING)
def test_two_leaves_of_one_path_are_refused(tree):
    with pytest.raises(TreeError, match=r"(?s)two leaves of the tree have one path.*\nFix: rename"):
        paths.flatten(tree)


def test_every_collision_is_named_as_it_is_written():
    with pytest.raises(TreeError) as error:
        paths.flatten({"a/b": [1, 2], "a": {"b": (3, 4)}, "c": 5})
    for line in (
        "'a/b/0' is the path of tree['a']['b'][0] and of tree['a/b'][0]",
        "'a/b/1' is the path of tree['a']['b'][1] and of tree['a/b'][1]",
    ):
        assert line in str(error.value)
    assert "'c'" not in str(error.value)


@pytest.mark.parametrize("make", [lambda: [], lambda: {}], ids=["list", "dict"])
def test_a_tree_that_holds_itself_is_refused(make):
    tree = make()
    tree.append(tree) if isinstance(tree, list) else tree.update(a=tree)
    with pytest.raises(TreeError, match=r"the tree holds itself.*\nFix: "):
        paths.flatten(tree)


def test_keys_without_an_order_are_refused():
    with pytest.raises(TreeError, match=r"keys that cannot be ordered, such as 1.*\nFix: "):
        paths.flatten({"a": {1: 2, "1": 3}})


def network(v, x):
    return jax.nn.relu(x @ v["a/b"]) @ v["a"]["b"]


def kernels(first="first", second="second", wrap=lambda leaf: leaf):
    return {
        first: wrap(np.ones((4, 5), np.float32)),
        second: wrap(np.ones((5, 3), np.float32)),
    }


CLASHING = {"a/b": np.ones((4, 5), np.float32), "a": {"b": np.ones((5, 3), np.float32)}}
GRAPH = jp.trace(lambda v, x: jax.nn.relu(x @ v["first"]) @ v["second"], kernels(), X)
KEEP = {"first": np.arange(5) < 2}
STATE = optax.sgd(0.1, momentum=0.9)

CALLS = {
    "trace": lambda: jp.trace(network, CLASHING, X),
    "slice": lambda: jp.slice(GRAPH, CLASHING, KEEP),
    "mask": lambda: jp.mask(GRAPH, CLASHING, KEEP),
    "unslice": lambda: jp.unslice(GRAPH, CLASHING, KEEP),
    "unslice into": lambda: jp.unslice(
        GRAPH, jp.slice(GRAPH, kernels(), KEEP), KEEP, into=CLASHING
    ),
    "l2": lambda: jp.scores.l2(GRAPH, CLASHING),
    "taylor": lambda: jp.scores.taylor(GRAPH, CLASHING, CLASHING),
    "opt_state": lambda: jp.slice_opt_state(
        GRAPH, STATE.init(CLASHING), KEEP, tx=STATE, params=kernels()
    ),
    "params": lambda: jp.slice_opt_state(
        GRAPH, STATE.init(kernels()), KEEP, tx=STATE, params=CLASHING
    ),
    "narrow": lambda: jp.narrow(network, GRAPH, KEEP)(CLASHING, X),
    "gated": lambda: jp.gated(network, GRAPH)(CLASHING, {"first": np.ones(5, np.float32)}, X),
    "verify": lambda: jp.verify(GRAPH, network, KEEP, CLASHING, X),
    "absorb": lambda: jp.recover.absorb_constants(GRAPH, CLASHING, KEEP),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function_of_a_tree_refuses_leaves_of_one_path(call):
    with pytest.raises(TreeError, match=r"a/b' is the path of tree.*\['a'\]\['b'\] and of tree"):
        call()


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="b")(x)


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Inner(name="a")(nn.relu(nn.Dense(5, name="a/b")(x)))


class Model(nnx.Module):
    def __init__(self, rngs):
        inner = nnx.Dict({"b": nnx.Linear(5, 3, rngs=rngs)})
        self.layers = nnx.Dict({"a/b": nnx.Linear(4, 5, rngs=rngs), "a": inner})

    def __call__(self, x):
        return self.layers["a"]["b"](jax.nn.relu(self.layers["a/b"](x)))


def test_modules_of_flax_whose_leaves_have_one_path():
    module = Outer()
    with pytest.raises(TreeError, match=r"'params/a/b/bias' is the path of"):
        jp.trace(lambda v, x: module.apply(v, x), module.init(jax.random.key(0), X), X)
    with pytest.raises(TreeError, match=r"'layers/a/b/bias' is the path of"):
        jp.nnx.trace(Model(nnx.Rngs(0)), X)


def test_outputs_and_inputs_may_have_one_path():
    graph = jp.trace(
        lambda v, x: {"a/b": jax.nn.relu(x["a/b"] @ v["first"]) @ v["second"], "a": {"b": x}},
        kernels(), {"a/b": X, "a": {"b": X}},
    )  # fmt: skip
    assert list(graph.groups) == ["first"]


@pytest.mark.parametrize(
    ("variables", "name", "paths"),
    [
        ({"params": kernels(), **kernels()}, "first", ["first", "params/first"]),
        (
            {"w": np.ones((4, 5, 6)), "w[1]": np.ones((4, 5)), "o": np.ones((35, 3))},
            "w[1]",
            ["w", "w[1]"],
        ),
    ],
    ids=["params", "brackets"],
)
def test_two_groups_of_one_name_are_refused(variables, name, paths):
    def fn(v, x):
        if "w" in v:
            first = jax.numpy.einsum("bi,ijk->bjk", x, v["w"]).reshape(-1, 30)
            return jax.numpy.concatenate([first, x @ v["w[1]"]], 1) @ v["o"]
        both = (v, v["params"])
        return sum(jax.nn.relu(x @ part["first"]) @ part["second"] for part in both)

    with pytest.raises(TreeError) as error:
        jp.trace(fn, variables, X)
    assert f"{name!r} would name the groups of " in str(error.value)
    assert all(repr(path) in str(error.value) for path in paths)
    assert "Fix: rename one of the variables" in str(error.value)


NAMES = [
    "a*",
    "a?b",
    "[0]",
    "a.b",
    "a\nb",
    "",
    "/",
    "é",
    "日本",
    "a b",
    "^a$",
    "(a|b)",
    "\\d",
    "a\\",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_covers_itself(name):
    variables = {name: kernels(), "other": np.ones(3, np.float32)}
    graph = jp.trace(
        lambda v, x: jax.nn.relu(x @ v[name]["first"]) @ v[name]["second"] + v["other"][None],
        variables, X,
    )  # fmt: skip
    (group,) = graph.groups
    assert group == f"{name}/first"
    scores = {group: np.arange(5.0)}
    for pattern in (group, "*", "*/first", f"{name}*"):
        keep = jp.select.per_group(graph, scores, prune_ratio={pattern: 0.4})
        assert keep[group].sum() == 3
        with pytest.raises(PatternError, match="leave no group"):
            jp.select.global_ratio(graph, scores, prune_ratio=0.4, protect=[pattern])
    assert f"variable {group}" in jp.explain(graph, group)
    small = jp.slice(graph, variables, jp.keep_from_spec(jp.spec(graph, keep)))
    assert small[name]["first"].shape == (4, 3)


def test_a_box_is_not_a_part_of_the_path():
    boxed = kernels(wrap=lambda leaf: nn.Partitioned(leaf, names=(None, None)))
    assert [*paths.flatten(boxed)[0]] == ["first", "second"]
    small = jp.slice(GRAPH, boxed, KEEP)
    assert small["first"].value.shape == (4, 2)
