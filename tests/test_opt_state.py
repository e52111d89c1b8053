"""`slice_opt_state`: the next update after the cut is the masked one of the full network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxprune as jp
from jaxprune.arguments.paths import flatten
from jaxprune.cutting.optimizer_state import slice_opt_state
from jaxprune.errors import KeepError, TreeError

SHAPES = {
    "params": {
        "first": {"bias": (8,), "kernel": (3, 8)},
        "head": {"kernel": (6, 2)},
        "second": {"bias": (6,), "kernel": (8, 6)},
    },
    "batch_stats": {"first": {"mean": (8,)}},
}
KEEP = {
    "first/kernel": np.array([0, 1, 1, 0, 1, 0, 0, 1], bool),
    "second/kernel": np.array([1, 0, 1, 1, 0, 1], bool),
}
ADAM = optax.adam(0.1)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def network(variables: Any, x: Any) -> Any:
    """Two hidden layers."""
    p, mean = variables["params"], variables["batch_stats"]["first"]["mean"]
    x = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"] - mean)
    x = jax.nn.relu(x @ p["second"]["kernel"] + p["second"]["bias"])
    return x @ p["head"]["kernel"]


def draw(shapes: Any, seed: int) -> Any:
    """Returns random host arrays."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda s: random.normal(size=s), shapes, is_leaf=lambda s: type(s) is tuple)


VARIABLES = draw(SHAPES, 0)
PARAMS = VARIABLES["params"]
GRAPH = jp.trace(network, VARIABLES, np.ones(3))


def cut(params: Any) -> Any:
    """Returns the small params."""
    return jp.slice(GRAPH, {"params": params}, KEEP)["params"]


def masked(params: Any) -> Any:
    """Returns the masked params."""
    return jp.mask(GRAPH, {"params": params}, KEEP)["params"]


def sliced(tx: Any, state: Any, params: Any = PARAMS) -> Any:
    """Returns the small state."""
    return slice_opt_state(GRAPH, state, KEEP, tx=tx, params=params)


def check_close(found: Any, expected: Any) -> None:
    """Checks two trees, up to rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    expected = flatten(expected)[0]
    for path, leaf in flatten(found)[0].items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-9, atol=1e-12, err_msg=path)


# The law.


class Averages(NamedTuple):
    """The state of `average_params`."""

    params_ema: Any


def average_params() -> optax.GradientTransformation:
    """Passes updates on and keeps an average of the params."""

    def update(updates: Any, state: Averages, params: Any = None) -> tuple[Any, Averages]:
        new = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state.params_ema, params)
        return updates, Averages(new)

    return optax.GradientTransformation(lambda p: Averages(jax.tree.map(jnp.copy, p)), update)


def kind(params: Any) -> Any:
    """Labels the leaves."""
    return jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "vector", params)


def matrices(params: Any) -> Any:
    """Marks the matrices."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


SGD = optax.sgd(0.1, momentum=0.9, nesterov=True)
ENTRYWISE = {
    "momentum": SGD,
    "adam": ADAM,
    "adamw": optax.adamw(0.1, weight_decay=0.01, mu_dtype=jnp.float32),
    "chain": optax.chain(
        optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.01, matrices), ADAM
    ),
    "schedule": optax.adam(optax.cosine_decay_schedule(0.1, 9)),
    "masked": optax.masked(ADAM, matrices),
    "masked by a tree": optax.chain(SGD, optax.masked(optax.trace(0.9), matrices(PARAMS))),
    "partition": optax.partition({"matrix": ADAM, "vector": SGD}, kind),
    "frozen": optax.partition({"matrix": ADAM, "vector": optax.set_to_zero()}, kind(PARAMS)),
    "ema": optax.chain(ADAM, optax.ema(0.9), average_params()),
    "multi steps": optax.MultiSteps(ADAM, 2),
    "hyperparams": optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 9)),
    "schedule-free": optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "schedule-free adam": optax.contrib.schedule_free_adamw(0.1),
    "finite": optax.apply_if_finite(ADAM, 3),
    "novograd": optax.novograd(0.1),
    "small adafactor": optax.adafactor(
        0.1, multiply_by_parameter_scale=False, clipping_threshold=None
    ),
}
MIXING = {
    "lamb": optax.lamb(0.1, weight_decay=0.01),
    "lars": optax.lars(0.1, momentum=0.9),
    "clipped updates": optax.chain(ADAM, optax.clip_by_global_norm(0.1)),
}
"""These mix the entries of an update, so the pruned ones must have been still before the cut."""


@pytest.mark.parametrize("name", ENTRYWISE | MIXING)
def test_the_next_update_is_the_masked_one_of_the_full_network(name):
    tx = (ENTRYWISE | MIXING)[name]
    before = masked if name in MIXING else lambda tree: tree
    params = before(PARAMS)
    state, update = tx.init(params), jax.jit(tx.update)
    for seed in range(3):
        updates, state = update(before(draw(SHAPES["params"], seed)), state, params)
        params = optax.apply_updates(params, updates)
    grads = draw(SHAPES["params"], 3)
    expected, after = update(masked(grads), state, masked(params))
    found = update(cut(grads), sliced(tx, state), cut(params))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(found[0]))
    check_close(found, (cut(expected), sliced(tx, after)))


@pytest.mark.parametrize("part", [("params",), (), ("params", "head")], ids="/".join)
def test_the_tree_that_is_trained_may_be_the_variables_the_params_or_a_part(part):
    whole = {"params": {"head": PARAMS["head"]}} if "head" in part else VARIABLES
    tree, expected = (v["params"] if part else v for v in (whole, jp.slice(GRAPH, whole, KEEP)))
    tx = optax.ema(0.9)
    small = sliced(tx, optax.EmaState(jnp.zeros([], jnp.int32), tree), tree)
    check_close(small.ema, expected)


def test_shapes_suffice_and_host_arrays_stay_on_the_host():
    shapes = jax.eval_shape(lambda tree: tree, PARAMS)
    state = jax.eval_shape(ADAM.init, shapes)
    small = sliced(ADAM, state, shapes)
    assert small == jax.eval_shape(ADAM.init, cut(PARAMS))
    host = sliced(ADAM, jax.tree.map(lambda s: np.ones(s.shape, s.dtype), state))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))


def test_arrays_on_several_devices_keep_their_sharding():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "d")

    def spread(leaf: Any) -> Any:
        spec = jax.sharding.PartitionSpec(*[None] * (leaf.ndim - 1), "d")
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    mu, nu = (draw(SHAPES["params"], seed) for seed in (1, 2))
    host = (ADAM.init(PARAMS)[0]._replace(mu=mu, nu=nu), optax.EmptyState())
    device = (host[0]._replace(mu=jax.tree.map(spread, mu), nu=jax.tree.map(spread, nu)), host[1])
    small = sliced(ADAM, device)
    check_close(small, sliced(ADAM, host))
    assert small[0].nu["second"]["kernel"].sharding == device[0].nu["second"]["kernel"].sharding


def test_a_module_with_the_name_of_a_moment_is_no_moment():
    params = {"kernel": np.ones((6, 6)), "mu": {"kernel": np.ones((6, 6))}, "out": np.ones((6, 2))}
    graph = jp.trace(
        lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["kernel"]) @ p["mu"]["kernel"]) @ p["out"],
        params,
        np.ones(6),
    )
    keep = {"kernel": np.arange(6) < 4, "mu/kernel": np.arange(6) % 2 == 0}
    state = jax.tree.map(jnp.asarray, ADAM.init(params))
    small = slice_opt_state(graph, state, keep, tx=ADAM, params=params)
    expected = {"kernel": (6, 4), "mu": {"kernel": (4, 3)}, "out": (3, 2)}
    assert jax.tree.map(jnp.shape, small[0].mu) == expected


def test_keeping_all_is_the_identity_even_for_a_factored_state():
    tx = optax.adafactor(0.1, min_dim_size_to_factor=2)
    state = tx.init(PARAMS)
    same = slice_opt_state(GRAPH, state, {}, tx=tx, params=PARAMS)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (same, state))))


# What cannot be cut.


def refused(tx: Any, state: Any = None, params: Any = PARAMS) -> str:
    """Returns the text of the TreeError."""
    with pytest.raises(TreeError) as caught:
        sliced(tx, tx.init(params) if state is None else state, params)
    return str(caught.value)


def test_factored_states_are_refused_leaf_by_leaf():
    text = refused(optax.adafactor(0.1, min_dim_size_to_factor=2))
    assert text.startswith("the optimizer state cannot be cut with the network:\n")
    assert (
        "'0/v_row/first/kernel', float64[3], has no value for each entry of 'first/kernel', which "
        "is [3, 8]"
    ) in text
    named = [line.split("'")[1] for line in text.splitlines()[1:-1]]
    kernels = [f"{name}/kernel" for name in ("first", "head", "second")]
    assert named == [f"0/{factor}/{kernel}" for factor in ("v_row", "v_col") for kernel in kernels]
    assert text.splitlines()[-1] == (
        "Fix: take these parts from tx.init(small_params), and slice the others each with their "
        "own tx."
    )


def test_the_way_out_of_a_factored_state():
    factored, momentum = optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.trace(0.9)
    tx = optax.chain(factored, momentum)
    state = tx.init(PARAMS)
    assert "'0/v_col/second/kernel'" in refused(tx)
    small = (factored.init(cut(PARAMS)), sliced(momentum, state[1]))
    grads = cut(draw(SHAPES["params"], 1))
    updates, after = jax.eval_shape(tx.update, grads, small, cut(PARAMS))
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, grads)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_memory_axes_are_refused():
    text = refused(optax.lbfgs(0.1, memory_size=4))
    for memory in ("diff_params_memory", "diff_updates_memory"):
        assert f"'0/{memory}/first/bias', float64[4, 8], has no value for each entry" in text
    assert "/params/first" not in text
    assert "weights_memory" not in text


def test_states_without_a_leaf_for_each_variable_are_refused():
    text = refused(optax.flatten(ADAM))
    assert "'0/mu', float64[98], is float64[44] in tx.init(small_params)" in text
    assert "'0/nu', float64[98]" in text


def test_a_dtype_that_the_optimizer_does_not_have_is_refused():
    state = SGD.init(PARAMS)
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
    text = refused(SGD, state)
    assert "'0/trace/first/bias', bfloat16[4], is float64[4] in tx.init(small_params)" in text


def test_params_are_told_from_the_variables_by_all_of_their_paths():
    """One of the parameters has the path of another variable."""
    variables = {"params": {"a": np.ones((3, 4)), "b": np.ones((4, 2))}, "b": np.ones(4)}
    graph = jp.trace(
        lambda v, x: (x @ v["params"]["a"] + v["b"][None]) @ v["params"]["b"],
        variables,
        np.ones((1, 3)),
    )
    keep = {"a": np.array([True, False, True, True])}
    params = variables["params"]
    state = slice_opt_state(graph, ADAM.init(params), keep, tx=ADAM, params=params)
    assert jax.tree.map(np.shape, state[0].mu) == {"a": (3, 3), "b": (3, 2)}


def test_a_state_that_was_cut_already_is_refused():
    assert "'0/mu/first/kernel', float64[3, 4], has no value for each entry of 'first/kernel'" in (
        refused(ADAM, ADAM.init(cut(PARAMS)))
    )


def test_the_state_of_another_optimizer_is_refused():
    text = refused(ADAM, SGD.init(PARAMS))
    assert text.startswith("the optimizer state has not the structure of tx.init(small_params):\n")
    assert "the state alone has '0/trace/first/bias'" in text
    assert "tx.init alone gives '0/mu/first/bias'" in text
    assert "Fix: pass the tx and the params that made the state; restore a checkpoint" in text


def test_other_containers_are_refused():
    state = ADAM.init(PARAMS)
    text = refused(ADAM, ({"count": 0, "mu": state[0].mu, "nu": state[0].nu}, state[1]))
    assert "the same leaves stand in other containers" in text


def test_params_that_the_graph_lacks_are_refused():
    params = {"frist": PARAMS["first"], "head": {"kernel": np.ones((5, 2))}}
    text = refused(ADAM, params=params)
    assert "'params/frist/kernel' is not a variable of the graph" in text
    assert "'params/head/kernel' has shape (5, 2), the graph has (6, 2)" in text


def test_the_keep_is_checked():
    keep = {"first/kernel": np.ones(7, bool)}
    with pytest.raises(KeepError, match=r"^keep for group 'first/kernel' has shape \(7,\)"):
        slice_opt_state(GRAPH, ADAM.init(PARAMS), keep, tx=ADAM, params=PARAMS)


class Optimizer:
    """A class that has what an optimizer has, and is none."""

    init = update = staticmethod(lambda *_: None)


@pytest.mark.parametrize(
    "tx",
    [optax.adam, Optimizer, ADAM.update, None],
    ids=["factory", "class", "update", "none"],
)
def test_what_is_no_optimizer_is_refused(tx):
    text = refused(tx, ADAM.init(PARAMS))
    assert "tx must be an optimizer" in text
    assert "optax.adam(1e-3)" in text
