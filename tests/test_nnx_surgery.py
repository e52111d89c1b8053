"""`jp.nnx`: what is refused, and what goes with the model: optimizer, checkpoint, overrides."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
import nnx_networks as networks
from jaxprune.arguments.paths import flatten

TESTS = Path(__file__).parent
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(2, 4, 4, 3)).astype(np.float32)
SEQUENCE = RANDOM.normal(size=(2, 5, 3)).astype(np.float32)
VECTORS = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)
TOKENS = RANDOM.integers(0, 7, size=(2, 5))


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Checks that two trees of the same paths agree."""
    ours, theirs = flatten(found)[0], flatten(expected)[0]
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_allclose(value, theirs[path], tolerance, tolerance, err_msg=path)


@pytest.fixture(scope="module")
def residual() -> Any:
    model = networks.model_of(networks.Residual)
    model.train()
    graph = jp.nnx.trace(model, IMAGES)
    keep = {"first/kernel": np.array([1, 0, 1, 0, 1], bool)}
    return model, graph, keep, jp.nnx.resize(model, graph, keep)


def train(model: Any, optimizer: Any) -> None:
    """One training step."""
    grads = nnx.grad(lambda model: (model(IMAGES) ** 2).mean())(model)
    optimizer.update(model, grads)


@pytest.mark.parametrize(
    "tx", [optax.sgd(0.1, momentum=0.9), optax.chain(optax.clip(1.0), optax.adamw(0.1))]
)
def test_a_step_of_the_resized_pair_is_that_of_the_masked_one(residual, tx):
    model, graph, keep, _ = residual
    model = nnx.clone(model)
    model.eval()  # a bias in front of a BatchNorm in train mode has no gradient but rounding
    nnx.update(model, jp.mask(graph, jp.nnx.variables(model), keep))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx.jit(train)
    step(model, optimizer)
    nnx.update(model, jp.mask(graph, jp.nnx.variables(model), keep))
    before = jax.tree.map(np.array, nnx.as_pure(nnx.state(optimizer)))

    small = jp.nnx.resize(model, graph, keep)
    resized = jp.nnx.resize_optimizer(optimizer, small, graph, keep)
    assert int(resized.step[...]) == 1
    assert_close(nnx.as_pure(nnx.state(optimizer)), before, 0)
    nnx.jit(train)(small, resized)
    step(model, optimizer)
    assert int(resized.step[...]) == int(optimizer.step[...]) == 2
    expected = jp.slice(graph, jp.nnx.variables(model), keep)
    assert_close(jp.nnx.variables(small), expected, 1e-4)


def test_a_model_and_optimizer_holds_the_small_model(residual):
    model, graph, keep, small = residual
    optimizer = nnx.ModelAndOptimizer(nnx.clone(model), optax.adam(0.1))
    resized = jp.nnx.resize_optimizer(optimizer, small, graph, keep)
    assert type(resized) is nnx.ModelAndOptimizer
    assert resized.model is small
    assert optimizer.model.first.out_features == 5


def test_the_optimizer_of_another_model_is_refused(residual):
    _, graph, keep, small = residual
    tx = optax.adam(0.1)
    other = nnx.Optimizer(networks.model_of(networks.Shared), tx, wrt=nnx.Param)
    with pytest.raises(jp.errors.TreeError, match=r"structure of tx.init(.|\n)*Fix:"):
        jp.nnx.resize_optimizer(other, small, graph, keep)
    wide = nnx.Optimizer(
        networks.model_of(lambda rngs: networks.Residual(rngs, inner=7)), tx, wrt=nnx.Param
    )
    with pytest.raises(jp.errors.TreeError, match=r"first/kernel(.|\n)*Fix:"):
        jp.nnx.resize_optimizer(wide, small, graph, keep)
    optimizer = nnx.Optimizer(networks.model_of(networks.Residual), tx, wrt=nnx.Param)
    with pytest.raises(jp.errors.TreeError, match=r"does not mirror(.|\n)*Fix:"):
        jp.nnx.resize_optimizer(optimizer, networks.model_of(networks.Residual), graph, keep)


RESTORE = """
import sys
import numpy as np
from flax import nnx
import jaxprune as jp
import nnx_networks as networks

fresh = networks.model_of(networks.Residual)
fresh.eval()
images = np.load(sys.argv[1] + "/images.npy")
restored = jp.restore(sys.argv[1] + "/pruned")
graph = jp.nnx.trace(fresh, images)
small = jp.nnx.resize(fresh, graph, jp.keep_from_spec(restored.spec))
nnx.update(small, restored.variables)
np.save(sys.argv[1] + "/outputs.npy", small(images))
"""


def test_a_checkpoint_comes_back_in_a_new_process(residual, tmp_path):
    model, graph, keep, small = residual
    small = nnx.clone(small)
    small(IMAGES)  # moves the statistics
    jp.save(tmp_path / "pruned", jp.nnx.variables(small), jp.spec(graph, keep))
    np.save(tmp_path / "images.npy", IMAGES)
    subprocess.run([sys.executable, "-c", RESTORE, str(tmp_path)], check=True, cwd=TESTS)
    small.eval()
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), small(IMAGES))
    assert model.first.out_features == 5


# Overrides, and what is refused.


@pytest.fixture(scope="module")
def encoder() -> Any:
    model = networks.model_of(networks.Encoder)
    graph = jp.nnx.trace(model, VECTORS)
    (heads,) = (name for name, group in graph.groups.items() if group.size == 4)
    return model, graph, {heads: np.array([True, False, False, True])}


@pytest.mark.usefixtures("unsearched")
def test_a_hard_coded_number_of_heads_is_refused_and_an_override_mends_it(encoder):
    model, graph, keep = encoder
    with pytest.raises(jp.errors.ResizeError) as error:
        jp.nnx.resize(model, graph, keep)
    for text in ("reshape", "attention", "[2, 5, 2, 2]", "Fix:", "overrides", "protect", "narrow"):
        assert text in str(error.value)
    small = jp.nnx.resize(model, graph, keep, overrides={"attent?on": {"heads": 2}})
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), VECTORS)
    np.testing.assert_allclose(small(VECTORS), expected, 1e-5, 1e-5)
    assert (model.attention.heads, small.attention.heads) == (4, 2)


@pytest.mark.usefixtures("unsearched")
def test_a_module_that_a_scan_makes_is_named():
    model = networks.model_of(
        lambda rngs: networks.Stacked(rngs, 6, block=lambda rngs, _: networks.Encoder(rngs))
    )
    graph = jp.nnx.trace(model, SEQUENCE)
    (heads,) = (name for name, group in graph.groups.items() if group.shape == (3, 4))
    keep = {heads: np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]], bool)}
    with pytest.raises(jp.errors.ResizeError, match=r"reshape.* at blocks/attention should give"):
        jp.nnx.resize(model, graph, keep)
    small = jp.nnx.resize(model, graph, keep, overrides={"blocks/attention": {"heads": 2}})
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), SEQUENCE)
    np.testing.assert_allclose(small(SEQUENCE), expected, 1e-5, 1e-5)


class Checked(nnx.Module):
    """A layer that insists on its width."""

    def __init__(self, rngs: nnx.Rngs):
        self.width = 8
        self.first, self.last = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.first(x))
        if x.shape[-1] != self.width:
            raise ValueError(f"width {x.shape[-1]} is not {self.width}")
        return self.last(x)


@pytest.mark.usefixtures("unsearched")
def test_a_module_that_checks_its_width_is_named_and_an_override_mends_it():
    def build(rngs: nnx.Rngs) -> nnx.Sequential:
        return nnx.Sequential(Checked(rngs), nnx.Linear(6, 2, rngs=rngs))

    model = networks.model_of(build)
    graph = jp.nnx.trace(model, VECTORS)
    keep = {"layers/0/first/kernel": np.arange(8) % 2 == 1}
    with pytest.raises(jp.errors.ResizeError, match=r"4 is not 8\n.*module 'layers/0' \(Checked\)"):
        jp.nnx.resize(model, graph, keep)
    small = jp.nnx.resize(model, graph, keep, overrides={"layers/0": {"width": 4}})
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), VECTORS)
    np.testing.assert_allclose(small(VECTORS), expected, 1e-5, 1e-5)


def test_heads_that_share_keys_and_values():
    def build(rngs: nnx.Rngs, heads: int, memories: int) -> nnx.MultiHeadAttention:
        kv = {"num_kv_heads": memories}
        return nnx.MultiHeadAttention(heads, 6, 3 * heads, **kv, decode=False, rngs=rngs)

    model = networks.model_of(lambda rngs: build(rngs, 8, 2))
    graph = jp.nnx.trace(model, VECTORS)
    keep = {"key/kernel[1]": np.array([False, True]), "query/kernel[1.1]": np.arange(4) > 0}
    small = jp.nnx.resize(model, graph, keep)
    narrow = networks.model_of(lambda rngs: build(rngs, 3, 1))
    nnx.update(narrow, jp.slice(graph, jp.nnx.variables(model), keep))
    assert nnx.graphdef(small) == nnx.graphdef(narrow)
    np.testing.assert_array_equal(small(VECTORS), narrow(VECTORS))


def test_an_override_that_fits_nothing_is_refused(encoder):
    model, graph, keep = encoder
    with pytest.raises(jp.errors.PatternError, match=r"'attend' matches none of 6.*\n?.*Fix:"):
        jp.nnx.resize(model, graph, keep, overrides={"attend": {"heads": 2}})
    with pytest.raises(jp.errors.ResizeError, match=r"\['haeds'\] .*'attention'.*\['heads'\]"):
        jp.nnx.resize(model, graph, keep, overrides={"attention": {"haeds": 2}})


@pytest.mark.usefixtures("unsearched")
def test_a_shape_error_names_the_module():
    class Bare(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.norm = nnx.GroupNorm(8, 4, use_scale=False, use_bias=False, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.last(self.norm(self.first(x)))

    model = networks.model_of(Bare)
    graph = jp.nnx.trace(model, SEQUENCE)
    (groups,) = (name for name, group in graph.groups.items() if group.size == 4)
    keep = {groups: np.array([True, True, False, True])}
    with pytest.raises(jp.errors.ResizeError, match=r"in module 'norm' \(GroupNorm\)(.|\n)*Fix:"):
        jp.nnx.resize(model, graph, keep)
    small = jp.nnx.resize(model, graph, keep, overrides={"norm": {"num_groups": 3}})
    assert small(SEQUENCE).shape == (2, 5, 2)


def test_flax_attention_wants_one_head_size_for_keys_and_values():
    def build(rngs: nnx.Rngs) -> networks.Transformer:
        return networks.Transformer(rngs, attention_fn=nnx.dot_product_attention)

    model = networks.model_of(build)
    graph = jp.nnx.trace(model, TOKENS)
    keep = {"attention/value/kernel[2]": np.array([True, False, True])}
    with pytest.raises(jp.errors.ResizeError, match=r"value shape.*\n.*'attention'"):
        jp.nnx.resize(model, graph, keep)
    keep |= {"attention/key/kernel[2]": np.array([False, True, True])}
    small = jp.nnx.resize(model, graph, keep)
    assert (small.attention.head_dim, small.attention.qkv_features) == (2, 8)
    (scale,) = jp.nnx.follows(graph, keep)
    assert "0.57735 became 0.707107" in scale
    assert "attention" in scale


def test_what_is_no_model_is_refused(residual):
    model, graph, keep, _ = residual
    cases: list[tuple[Any, str]] = [(nn.Dense(3), "Dense"), (networks.Residual, "the class Resi")]
    for wrong, text in cases:
        for call in (
            lambda wrong=wrong: jp.nnx.trace(wrong, IMAGES),
            lambda wrong=wrong: jp.nnx.variables(wrong),
            lambda wrong=wrong: jp.nnx.resize(wrong, graph, keep),
        ):
            with pytest.raises(jp.errors.TraceError, match=f"expected an nnx.Module, got {text}"):
                call()
    plain = jp.trace(lambda v, x: graph.fn(v, x), jp.nnx.variables(model), IMAGES)
    with pytest.raises(jp.errors.ResizeError, match=r"not that of an nnx.Module.\nFix: jp.nnx"):
        jp.nnx.resize(model, plain, keep)


def test_a_keep_that_does_not_fit_is_refused(residual):
    model, graph, keep, _ = residual
    for wrong in ({"first/kernel": np.ones(4, bool)}, {"fist/kernel": keep["first/kernel"]}):
        for call in (jp.nnx.resize, lambda _, graph, keep: jp.nnx.follows(graph, keep)):
            with pytest.raises(jp.errors.KeepError, match="Fix:"):
                call(model, graph, wrong)


def test_a_model_that_is_not_the_graphs_is_refused(residual):
    model, graph, keep, small = residual
    with pytest.raises(jp.errors.TreeError, match=r"'first/kernel' has shape(.|\n)*Fix:"):
        jp.nnx.resize(small, graph, keep)
    bare = nnx.clone(model)
    bare.head.bias = nnx.data(None)
    with pytest.raises(jp.errors.TreeError, match=r"no variables \['head/bias'\](.|\n)*Fix:"):
        jp.nnx.resize(bare, graph, keep)
    with pytest.raises(jp.errors.TreeError, match=r"\['head/bias'\] are in only one(.|\n)*Fix:"):
        graph.fn(jp.nnx.variables(bare), IMAGES)
    other = nnx.clone(model)
    other.first.out_features = 7
    with pytest.raises(jp.errors.ResizeError, match=r"'first' has out_features=7.* 5.\nFix:"):
        jp.nnx.resize(other, graph, keep)


def test_the_mode_of_the_model_is_kept(residual):
    model, graph, keep, _ = residual
    evaluated = nnx.clone(model)
    evaluated.eval()
    small = jp.nnx.resize(evaluated, graph, keep)
    assert small.norm.use_running_average
    assert jp.nnx.function(small)(jp.nnx.variables(small), IMAGES)[1] == {}


def test_shapes_that_cannot_be_followed_are_refused():
    model = networks.model_of(networks.Shared)
    shape = jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
    with pytest.raises(jp.errors.TraceError, match=r"arguments \['x'\] hold shapes(.|\n)*Fix:"):
        jp.nnx.function(model, x=shape)
    model.plain = shape
    with pytest.raises(
        jp.errors.TraceError, match=r"\['plain'\] of the model are shapes(.|\n)*Fix:"
    ):
        jp.nnx.trace(model, SEQUENCE)


@pytest.mark.usefixtures("unsearched")
def test_the_layers_of_flax_are_left_as_they_are(encoder):
    before = vars(nnx.Linear)["__call__"]
    model, graph, keep = encoder
    with pytest.raises(jp.errors.ResizeError):
        jp.nnx.resize(model, graph, keep)
    places = {op.place for op in graph.walk.ops if op.name == "dot_general"}
    assert {f"attention/{name}" for name in ("query", "key", "value", "out")} <= places
    assert vars(nnx.Linear)["__call__"] is before
