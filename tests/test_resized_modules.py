"""What a resized module shows of itself: `print`, `tabulate` and attributes have kept widths."""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.program import jaxpr

X = jnp.ones((1, 5, 3))
PLAIN = {"console_kwargs": {"force_terminal": False, "width": 200}}


class Block(nn.Module):
    """Layers made in `setup`, one list of them."""

    width: int

    def setup(self) -> None:
        self.first, self.last = nn.Dense(self.width), nn.Dense(8)
        self.more = [nn.Dense(12), nn.Dense(8)]

    def hidden(self, x: Any) -> Any:
        return nn.relu(self.first(x))

    def __call__(self, x: Any) -> Any:
        x = x + self.last(self.hidden(x))
        return x + self.more[1](nn.relu(self.more[0](x)))


class Net(nn.Module):
    """Layers of every kind, a block of its own and one that it was given."""

    width: int
    block: nn.Module

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.GroupNorm(num_groups=2)(nn.Dense(8)(x))
        x = self.block(Block(self.width)(x))
        x = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=16)(x, x)
        x = nn.relu(nn.Conv(16, (1,), name="wide")(x))
        x = nn.Conv(16, (3,), feature_group_count=4, name="grouped")(x)
        return nn.Dense(3)(x.mean(1))


def halved(module: nn.Module, x: Any = X) -> tuple[jp.linen.Resized, Any, Any]:
    """The module at half of every width, its variables, and the keep."""
    variables = jax.jit(module.init)(jax.random.key(0), x)
    graph = jp.linen.trace(module, variables, x)
    keep = jp.select.per_group(graph, jp.scores.l2(graph, variables), prune_ratio=0.5)
    return jp.linen.resize(module, graph, keep), jp.slice(graph, variables, keep), keep


@pytest.fixture(scope="module")
def net() -> tuple[jp.linen.Resized, Any, Any]:
    return halved(Net(16, Block(6)))


def test_print_shows_the_layers_at_the_kept_widths(net: Any) -> None:
    text = str(net[0])
    assert text.startswith("Resized Net(")
    for line in (
        "Dense_0 = Dense(features=2, bias=(2,), kernel=(3, 2))",
        "GroupNorm_0 = GroupNorm(num_groups=1, bias=(2,), scale=(2,))",
        "Block_0/first = Dense(features=8, bias=(8,), kernel=(2, 8))",
        "block/first = Dense(features=3, bias=(3,), kernel=(2, 3))",
        "block/more_0 = Dense(features=6, bias=(6,), kernel=(2, 6))",
        "num_heads=2, qkv_features=4, out_features=4)",
        "grouped = Conv(features=4, feature_group_count=2, bias=(4,), kernel=(3, 2, 4))",
        "width = 16",
    ):
        assert line in text, text
    before, given = text.split("# attributes as given")
    assert "width = 16" in given
    assert "width" not in before.split("# at the")[0]


def test_every_shape_that_print_shows_is_that_of_the_sliced_variables(net: Any) -> None:
    text = str(net[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path(net[1]["params"]):
        *module, name = [key.key for key in path]
        start = f"    {'/'.join(module)} = "
        (line,) = (row for row in text.splitlines() if row.startswith(start))
        assert f"{name}={leaf.shape}" in line


def test_tabulate_is_that_of_the_sliced_variables(net: Any) -> None:
    small, variables, _ = net
    text = small.tabulate(jax.random.key(0), X, **PLAIN)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert f"Total Parameters: {count:,}" in text
    for part in ("Net Summary", "Block_0/first", "kernel: float32[2,8]", "float32[1,5,2,2]"):
        assert part in text, text
    for shown in nn.tabulate(small, jax.random.key(0), **PLAIN)(X), text:
        assert f"Total Parameters: {count:,}" in shown
    with pytest.raises(jp.errors.JaxpruneError, match=r"compute_flops[\s\S]*Fix: .*jp\.compare"):
        small.tabulate(jax.random.key(0), X, compute_flops=True)


def test_attributes_of_modules_that_were_given_have_kept_widths(net: Any) -> None:
    small, variables, _ = net
    assert small.width == 16
    assert isinstance(small.block, jp.linen.Resized)
    assert "first = Dense(features=3" in str(small.block)
    with pytest.raises(AttributeError, match=r"\"Block\" object has no attribute \"first\".*setup"):
        _ = small.block.first
    with pytest.raises(AttributeError, match=r"\"Net\" object has no attribute \"heads\""):
        _ = small.heads
    x = jnp.ones((1, 5, 2))
    block = {"params": variables["params"]["block"]}
    out = small.block.apply(block, x)
    np.testing.assert_array_equal(small.bind(variables).block(x), out)


def test_a_bound_module_has_the_layers_of_setup_at_kept_widths(net: Any) -> None:
    small, variables, _ = net
    bound = small.bind(variables)
    assert bound.block.first.features == 3
    assert [layer.features for layer in bound.block.more] == [6, 2]
    x = jnp.ones((1, 5, 2))
    hidden = bound.block.hidden(x)
    assert hidden.shape == (1, 5, 3)
    np.testing.assert_array_equal(nn.relu(bound.block.first(x)), hidden)
    module, inner = bound.block.first.unbind()
    np.testing.assert_array_equal(nn.relu(module.apply(inner, x)), hidden)


def test_methods_may_be_named_by_the_module_that_has_them() -> None:
    module = Block(16)
    x = jnp.ones((1, 8))
    small, variables, _ = halved(module, x)
    x = x[:, : variables["params"]["first"]["kernel"].shape[0]]
    expected = small.apply(variables, x, method="hidden")
    assert expected.shape == (1, 8)
    for method in (small.hidden, module.hidden, Block.hidden):
        np.testing.assert_array_equal(small.apply(variables, x, method=method), expected)
    np.testing.assert_array_equal(small.bind(variables).hidden(x), expected)


def test_a_layer_by_itself_and_a_sequential() -> None:
    module = nn.Sequential([nn.Dense(8), nn.relu, nn.Sequential([nn.Dense(6), nn.Dense(3)])])
    small, variables, _ = halved(module)
    first, relu, inner = small.layers
    assert (first.features, inner.layers[0].features, inner.layers[1].features) == (4, 3, 3)
    assert relu is nn.relu
    assert str(first).startswith("Resized Dense(\n    # at the kept widths\n    features = 4\n")
    assert "layers_2/layers_0 = Dense(features=3" in str(small)
    out = first.apply({"params": variables["params"]["layers_0"]}, X)
    assert out.shape == (1, 5, 4)


class Given(nn.Module):
    """Modules in a dict, one of them also inside of the other."""

    parts: Any

    def __call__(self, x: Any) -> Any:
        return self.parts["last"](nn.relu(self.parts["first"](x)))


class Holder(nn.Module):
    """Calls what it was given."""

    inner: nn.Module

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


def test_modules_in_a_dict_and_a_module_that_two_hold() -> None:
    small, *_ = halved(Given({"first": nn.Dense(8), "last": Holder(nn.Dense(3))}))
    assert small.parts["first"].features == 4
    assert small.parts["last"].inner.features == 3

    class Both(nn.Module):
        shared: nn.Module
        holder: nn.Module

        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(3)(nn.relu(self.holder(x) + self.shared(x)))

    layer = nn.Dense(8)
    small, variables, _ = halved(Both(layer, Holder(layer)))
    assert small.shared.features == small.bind(variables).shared.features == 4
    with pytest.raises(AttributeError, match=r"'inner' holds a module.*another module[\s\S]*Fix:"):
        _ = small.holder.inner


def test_a_module_that_was_resized_twice_shows_the_last_widths() -> None:
    module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
    small, variables, _ = halved(module)
    graph = jp.linen.trace(small, variables, X)
    smaller = jp.linen.resize(small, graph, {"layers_0/kernel": np.arange(4) < 1})
    assert [smaller.layers[0].features, smaller.layers[2].features] == [1, 3]
    assert "layers_0 = Dense(features=1, bias=(1,), kernel=(3, 1))" in str(smaller)
    assert "Total Parameters: 10" in smaller.tabulate(jax.random.key(0), X, **PLAIN)


def test_overrides_are_among_the_kept_attributes() -> None:
    class Heads(nn.Module):
        heads: int = 4

        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Dense(16)(x)
            x = x.reshape(*x.shape[:-1], self.heads, -1).transpose(0, 2, 1, 3)
            x = nn.softmax(x @ x.swapaxes(-1, -2)) @ x
            x = x.transpose(0, 2, 1, 3)
            return nn.Dense(3)(x.reshape(*x.shape[:2], -1))

    module = Heads()
    variables = jax.jit(module.init)(jax.random.key(0), X)
    graph = jp.linen.trace(module, variables, X)
    (heads,) = (name for name in graph.groups if name.endswith("[1.0]"))
    keep = {heads: np.arange(4) < 2}
    small = jp.linen.resize(module, graph, keep, overrides={"": {"heads": 2}})
    assert small.heads == 2
    assert "# at the kept widths\n    heads = 2\n" in str(small)


def test_nnx_models_show_their_kept_widths() -> None:
    class Twin(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(3, 8, (3,), rngs=rngs)
            self.norm = nnx.GroupNorm(8, num_groups=2, rngs=rngs)
            self.mlp = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), nnx.relu)
            self.head = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.mlp(self.norm(self.conv(x))))

    model = Twin(nnx.Rngs(0))
    graph = jp.nnx.trace(model, X)
    scores = jp.scores.l2(graph, jp.nnx.variables(model))
    small = jp.nnx.resize(model, graph, jp.select.per_group(graph, scores, prune_ratio=0.5))
    assert (small.conv.out_features, small.mlp.layers[0].out_features) == (2, 8)
    assert small.norm.num_groups == 1
    text = str(small)
    for part in ("out_features=2", "out_features=8", "num_groups=1"):
        assert part in text, text
    assert "float32[8,3]" in nnx.tabulate(small, X, **PLAIN)


class Counting(nn.Module):
    """Counts how often its initializer is traced."""

    count: Callable[[], None]
    box: bool = False

    @nn.compact
    def __call__(self, x):
        def init(key, shape):
            self.count()
            return jax.random.normal(key, shape)

        made = nn.with_partitioning(init, (None, "model")) if self.box else init
        return nn.Dense(2)(x @ self.param("kernel", made, (x.shape[-1], 8)))


@pytest.mark.parametrize("box", [False, True])
def test_a_parameter_that_is_there_needs_no_initializer(box):
    counted: list[int] = []
    module, x = Counting(lambda: counted.append(1), box), np.ones((1, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    plain = nn.unbox(variables)
    counted.clear()
    graph = jp.linen.trace(module, plain, x)
    keep = {"kernel": np.arange(8) < 5}
    small, model2 = jp.slice(graph, plain, keep), jp.linen.resize(module, graph, keep)
    found = model2.apply(small, x)
    assert not counted
    masked = module.apply(jp.mask(graph, plain, keep), x)
    np.testing.assert_allclose(found, masked, rtol=1e-5, atol=1e-6)
    with pytest.raises(flax.errors.ScopeParamShapeError):
        model2.apply(plain, x)
    shapes = jax.tree.map(np.shape, nn.unbox(model2.init(jax.random.key(0), x)))
    assert shapes == jax.tree.map(np.shape, small)


def test_a_resize_traces_the_network_once(monkeypatch):
    module, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), np.ones((1, 3))
    variables = jax.jit(module.init)(jax.random.key(0), x)
    traced, trace = [], jaxpr.trace
    for graph in (
        jp.linen.trace(module, variables, x),
        jp.trace(lambda v, x: module.apply(v, x), variables, x),
    ):
        monkeypatch.setattr(jaxpr, "trace", lambda *args: (traced.append(1), trace(*args))[1])
        jp.linen.resize(module, graph, {"layers_0/kernel": np.arange(8) < 5})
        monkeypatch.undo()
    assert len(traced) == 2
