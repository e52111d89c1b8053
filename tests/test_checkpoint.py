"""What is saved comes back, and is read when it is asked for."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from checkpoints import METADATA, PARAMS, SPEC, VARIABLES, assert_identical, data, files, write
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint") / "deep" / "pruned")


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "pruned", {"w": np.arange(3.0)}, SPEC)
    return tmp_path / "pruned"


def test_everything_comes_back_bit_for_bit(written):
    restored = restore(written)
    assert_identical(restored.variables, VARIABLES)
    assert restored.spec == SPEC
    assert restored.metadata == METADATA


def test_arrays_come_back_on_the_host(written):
    leaves = jax.tree.leaves(restore(written).variables)
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


def test_a_path_may_be_a_relative_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("pruned", {"w": np.ones(2)}, SPEC)
    assert_identical(restore("pruned").variables, {"w": np.ones(2)})


@pytest.mark.parametrize("variables", [{}, {"a": {}, "b": None}, [], np.float32(2)])
def test_trees_without_stored_arrays_and_bare_leaves(tmp_path, variables):
    save(tmp_path / "pruned", variables, SPEC)
    assert_identical(restore(tmp_path / "pruned").variables, variables)


def test_optimizer_state_comes_back_in_the_structure_of_the_template(tmp_path):
    tx = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1.0, 0.0, 10)))
    _, state = tx.update(PARAMS, tx.init(PARAMS))
    save(tmp_path / "pruned", PARAMS, SPEC, opt_state=state)
    for template in (state, jax.eval_shape(tx.init, PARAMS)):
        assert_identical(restore(tmp_path / "pruned", opt_state=template).opt_state, state)


def test_a_template_places_arrays(tmp_path):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
    variables = {
        "w": jax.device_put(np.arange(16.0, dtype=np.float32), sharding),
        "n": np.ones(2),
        "empty": jnp.zeros((0, 3)),
    }
    save(tmp_path / "pruned", variables, SPEC)
    assert_identical(restore(tmp_path / "pruned").variables, variables)
    restored = restore(tmp_path / "pruned", like=variables).variables
    assert_identical(restored, variables)
    assert restored["w"].sharding == sharding
    assert isinstance(restored["n"], np.ndarray)
    assert isinstance(restored["empty"], jax.Array)


def test_other_containers_need_a_template(tmp_path):
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    save(tmp_path / "pruned", state, SPEC)
    assert_identical(restore(tmp_path / "pruned", like=state).variables, state)
    with pytest.raises(CheckpointError, match=r"contain a State.*\nFix: restore\(path, like="):
        _ = restore(tmp_path / "pruned").variables


def test_a_template_that_differs_is_an_error(written, checkpoint):
    tx = optax.adam(1e-3)
    wider = {"Conv_0": {"kernel": jnp.ones((2, 4)), "scale": jnp.ones(3)}}
    with pytest.raises(CheckpointError) as error:
        restore(written, opt_state=tx.init(wider))
    for line in (
        "the template does not fit the saved opt_state:",
        "'0/mu/Conv_0/kernel': saved float32[2, 3], template float32[2, 4]",
        "'0/nu/Conv_0/bias': saved float32[3], template nothing",
        "'0/nu/Conv_0/scale': saved nothing, template float32[3]",
        "Fix: build the template",
    ):
        assert line in str(error.value)
    with pytest.raises(CheckpointError, match=r"'w': saved float64\[3\], template float32\[3\]"):
        restore(checkpoint, like={"w": jnp.ones(3, jnp.float32)})


def test_a_sharding_that_does_not_divide_is_a_checkpoint_error(checkpoint):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
    like = {"w": jax.ShapeDtypeStruct((3,), np.float64, sharding=sharding)}
    with pytest.raises(CheckpointError, match=r"Orbax cannot read the variables"):
        _ = restore(checkpoint, like=like).variables


def test_a_template_without_saved_state_is_an_error(checkpoint):
    with pytest.raises(CheckpointError, match=r"no optimizer state to fill.*\nFix: save\("):
        restore(checkpoint, opt_state=optax.adam(1e-3).init(PARAMS))


def test_nothing_is_pickled(written):
    for name, content in files(written).items():
        assert b"\x80\x04\x95" not in content, name
        assert b"pickle" not in content, name


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(max_examples=30)
@given(metadata=JSON)
def test_metadata_is_any_json_value(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("checkpoint")
    save(path, {}, SPEC, metadata=metadata)
    assert restore(path).metadata == metadata


def test_an_optimizer_state_of_plain_containers_needs_no_template(tmp_path):
    state = {"momentum": [np.ones(2), None], "rest": (np.int32(3), {})}
    save(tmp_path / "pruned", PARAMS, SPEC, opt_state=state)
    assert_identical(restore(tmp_path / "pruned").opt_state, state)


def test_an_optimizer_state_that_needs_a_template_says_so(written):
    restored = restore(written)
    assert_identical(restored.variables, VARIABLES)
    with pytest.raises(
        CheckpointError, match=r"(?s)opt_state contain.*ScaleByAdamState.*Fix: "
    ) as error:
        _ = restored.opt_state
    assert "restore(path, opt_state=jax.eval_shape(tx.init, params))" in str(error.value)


def test_the_optimizer_state_is_none_only_if_none_was_saved(tmp_path, checkpoint):
    assert restore(checkpoint).opt_state is None
    for state in ((), {}, optax.EmptyState()):
        save(tmp_path / "pruned", PARAMS, SPEC, opt_state=state, overwrite=True)
        assert restore(tmp_path / "pruned", opt_state=state).opt_state == state


def test_spec_and_metadata_are_there_without_the_arrays(tmp_path):
    path = write(tmp_path / "pruned")
    for file in data(path).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    restored = restore(path)
    assert (restored.spec, restored.metadata) == (SPEC, METADATA)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        _ = restored.variables


def test_the_variables_are_there_without_the_optimizer_state(tmp_path):
    path = write(tmp_path / "pruned")
    for file in (data(path) / "opt_state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    restored = restore(path, opt_state=optax.adam(1e-3).init(PARAMS))
    assert_identical(restored.variables, VARIABLES)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        _ = restored.opt_state


def test_arrays_are_read_once_and_go_on_when_the_checkpoint_is_replaced(checkpoint):
    early, late = restore(checkpoint), restore(checkpoint)
    variables = early.variables
    save(checkpoint, {"w": np.zeros(3)}, SPEC, overwrite=True)
    assert early.variables is variables
    with pytest.raises(CheckpointError, match=r"replaced by a later save before its variables"):
        _ = late.variables
    assert_identical(restore(checkpoint).variables, {"w": np.zeros(3)})


def test_a_template_in_another_order_is_filled_by_path(tmp_path):
    save(tmp_path / "pruned", {"a": np.zeros(2), "b": np.ones(2)}, SPEC)
    like = OrderedDict(b=np.empty(2), a=np.empty(2))
    restored = restore(tmp_path / "pruned", like=like).variables
    assert [*restored] == ["b", "a"]
    assert_identical(dict(restored), {"a": np.zeros(2), "b": np.ones(2)})


COLLIDING = [
    {"a/b": np.zeros(2), "a": {"b": np.ones(2)}},
    {"a/0": np.zeros(2), "a": (np.ones(2), np.full(2, 2.0))},
    {"": {"a": np.zeros(2)}, "/a": np.ones(2)},
    {"a": {"b": {"c": np.zeros(2)}, "b/c": np.ones(2)}, "a/b": {"c": np.full(2, 2.0)}},
    {"a\nb": np.zeros(2), "*": np.ones(2), "ü": np.full(2, 2.0), 'quote"': np.full(2, 3.0)},
]


@pytest.mark.parametrize("variables", COLLIDING, ids=str)
def test_trees_whose_leaves_have_one_path_come_back_whole(tmp_path, variables):
    save(tmp_path / "pruned", variables, SPEC)
    for like in (None, variables):
        assert_identical(restore(tmp_path / "pruned", like=like).variables, variables)
