"""Every layer of Flax NNX: the resized layer is the one that its constructor makes."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
import nnx_networks as networks
from jaxprune.nnx.attributes import ATTRIBUTES

RANDOM = np.random.default_rng(0)
SEQUENCE = RANDOM.normal(size=(2, 5, 3)).astype(np.float32)
IMAGES = RANDOM.normal(size=(2, 4, 4, 3)).astype(np.float32)
TOKENS = RANDOM.integers(0, 7, size=(2, 5))

# Layers that no attribute of tells a size; RoPE came with Flax 0.12.12.
WITHOUT_SIZES = set(
    "Bidirectional Dropout List Dict Module PReLU RNN RNNCellBase RoPE Sequential SpectralNorm "
    "WeightNorm LoRALinear Object Pytree".split()
)


def test_someone_looked_at_every_layer_of_flax():
    found = {
        name
        for name, kind in vars(nnx).items()
        if inspect.isclass(kind) and issubclass(kind, nnx.Module)
    }
    known = {kind.__name__ for kind in ATTRIBUTES}
    assert found - known - WITHOUT_SIZES == set()
    assert known <= found


def test_every_layer_with_sizes_has_a_case():
    made = set()
    for name in CASES.keys() - WITH_PLAIN_ARRAYS:
        build, _, full, _ = CASES[name]
        model = nnx.eval_shape(lambda build=build, full=full: build(nnx.Rngs(0), *full))
        made |= {type(module) for _, module in nnx.iter_modules(model)}
    assert set(ATTRIBUTES) <= made


class Wrapped(nnx.Module):
    """A layer between two linear ones, from the width `width` to the width `out`."""

    def __init__(self, rngs: nnx.Rngs, layer: Callable[..., Any], width: int, out: int):
        linear = partial(nnx.Linear, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
        self.first = linear(3, width)
        self.layer = layer(width, out, rngs)
        self.last = linear(out, 2)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.layer(nnx.relu(self.first(x)))))


def wrap(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what builds a network around the layer `layer(width, out, rngs)`."""
    return lambda rngs, width, out: Wrapped(rngs, layer, width, out)


def norm(kind: Any, **arguments: Any) -> Callable[..., Any]:
    """Returns what builds a network around a normalization."""
    return lambda rngs, width: Wrapped(
        rngs, lambda w, _, rngs: kind(w, rngs=rngs, **arguments), width, width
    )


def recurrent(cell: Any) -> Callable[..., Any]:
    """Returns what builds a network around a recurrent cell."""
    return lambda rngs, hidden, width: networks.Recurrent(rngs, cell, hidden, width)


def transformer(**arguments: Any) -> Callable[..., Any]:
    """Returns what builds a transformer of (width, heads, head size, hidden size)."""
    return lambda rngs, *sizes: networks.Transformer(rngs, *sizes, **arguments)


WIDTHS, KEPT = (8, 5), (6, 3)

# Name -> (what builds a network of some sizes, input, the sizes, the kept sizes).
CASES: dict[str, tuple[Callable[..., Any], Any, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (wrap(lambda w, o, r: nnx.Linear(w, o, rngs=r)), SEQUENCE, WIDTHS, KEPT),
    "linear-general": (
        wrap(lambda w, o, r: nnx.LinearGeneral(w, (o,), axis=(-1,), rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "einsum": (
        wrap(lambda w, o, r: nnx.Einsum("btw,wo->bto", (w, o), (o,), rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "convolution": (wrap(lambda w, o, r: nnx.Conv(w, o, 3, rngs=r)), SEQUENCE, WIDTHS, KEPT),
    "masked-convolution": (
        wrap(lambda w, o, r: nnx.Conv(w, o, 3, mask=jnp.ones((3, w, o)), rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "transposed": (
        wrap(lambda w, o, r: nnx.ConvTranspose(w, o, 3, rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "transposed-kernel": (
        wrap(lambda w, o, r: nnx.ConvTranspose(w, o, 3, transpose_kernel=True, rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "lora": (wrap(lambda w, o, r: nnx.LoRA(w, 2, o, rngs=r)), SEQUENCE, WIDTHS, KEPT),
    "lora-linear": (
        wrap(lambda w, o, r: nnx.LoRALinear(w, o, lora_rank=2, rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "weight-norm": (
        wrap(lambda w, o, r: nnx.WeightNorm(nnx.Linear(w, o, rngs=r), rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "spectral-norm": (
        wrap(lambda w, o, r: nnx.SpectralNorm(nnx.Linear(w, o, rngs=r), rngs=r)),
        SEQUENCE,
        WIDTHS,
        KEPT,
    ),
    "batch-norm": (norm(nnx.BatchNorm, use_running_average=False), SEQUENCE, (8,), (6,)),
    "batch-norm-bare": (norm(nnx.BatchNorm, use_scale=False, use_bias=False), SEQUENCE, (8,), (6,)),
    "layer-norm": (norm(nnx.LayerNorm), SEQUENCE, (8,), (6,)),
    "rms-norm": (norm(nnx.RMSNorm), SEQUENCE, (8,), (6,)),
    "instance-norm": (norm(nnx.InstanceNorm, use_scale=False), SEQUENCE, (8,), (6,)),
    "groups": (networks.Grouped, IMAGES, (4, 6, 5), (2, 6, 5)),
    "groups-members": (networks.Grouped, IMAGES, (4, 6, 5), (4, 3, 5)),
    "groups-both": (networks.Grouped, IMAGES, (4, 6, 5), (3, 2, 4)),
    "transformer": (transformer(), TOKENS, (12, 4, 3, 5), (7, 2, 2, 4)),
    "flax-attention": (
        transformer(attention_fn=nnx.dot_product_attention),
        TOKENS,
        (12, 4, 3, 5),
        (7, 2, 2, 4),
    ),
    "lstm": (recurrent(nnx.LSTMCell), SEQUENCE, WIDTHS, KEPT),
    "optimized-lstm": (recurrent(nnx.OptimizedLSTMCell), SEQUENCE, WIDTHS, KEPT),
    "gru": (recurrent(nnx.GRUCell), SEQUENCE, WIDTHS, KEPT),
    "simple-cell": (recurrent(nnx.SimpleCell), SEQUENCE, WIDTHS, KEPT),
    "stacked": (networks.Stacked, SEQUENCE, (4, 6), (3, 5)),
    "stacked-mixed": (
        partial(networks.Stacked, block=networks.Mixed),
        SEQUENCE,
        (8, 4, 3, 2, 5, 6),
        (7, 3, 2, 1, 4, 2),
    ),
}


WITH_PLAIN_ARRAYS = {"weight-norm", "masked-convolution"}


@pytest.mark.parametrize("name", CASES)
def test_a_resized_layer_is_the_one_that_its_constructor_makes(name):
    build, x, full, kept = CASES[name]
    plain = name in WITH_PLAIN_ARRAYS
    model = networks.model_of(lambda rngs: build(rngs, *full), initialize=plain)
    narrow = networks.model_of(lambda rngs: build(rngs, *kept), initialize=plain)
    model.eval()
    narrow.eval()
    graph = jp.nnx.trace(model, x)
    counts = dict(zip(full, kept, strict=True))
    keep = {
        name: np.broadcast_to(np.arange(group.size) >= group.size - counts[group.size], group.shape)
        for name, group in graph.groups.items()
        if group.size in counts
    }
    assert {graph.groups[name].size for name in keep} == set(full)
    small = jp.nnx.resize(model, graph, keep)
    nnx.update(narrow, jp.slice(graph, jp.nnx.variables(model), keep))
    assert nnx.graphdef(small) == nnx.graphdef(narrow)
    np.testing.assert_array_equal(small(x), narrow(x))


def test_the_layer_axis_may_stand_anywhere():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs, width: int):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=1)
            def build(rngs: nnx.Rngs) -> nnx.Linear:
                return nnx.Linear(width, width, rngs=rngs)

            self.first, self.last = nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)
            self.layers = build(rngs)

        def __call__(self, x: Any) -> Any:
            @nnx.scan(in_axes=(1, nnx.Carry), out_axes=nnx.Carry)
            def run(layer: nnx.Linear, x: Any) -> Any:
                return nnx.relu(layer(x))

            return self.last(run(self.layers, self.first(x)))

    model = networks.model_of(lambda rngs: Net(rngs, 6))
    assert model.layers.kernel.shape == (6, 3, 6)
    graph = jp.nnx.trace(model, SEQUENCE)
    (name,) = (name for name, group in graph.groups.items() if group.layers is None)
    keep = {name: np.arange(6) > 1}
    small = jp.nnx.resize(model, graph, keep)
    assert (small.layers.in_features, small.layers.out_features) == (4, 4)
    assert small.layers.kernel.shape == (4, 3, 4)
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), SEQUENCE)
    np.testing.assert_allclose(small(SEQUENCE), expected, rtol=1e-5)


def test_a_subclass_with_other_variables_is_left_alone():
    class Factored(nnx.Linear):
        def __init__(self, width: int, out: int, rngs: nnx.Rngs):
            super().__init__(width, out, use_bias=False, rngs=rngs)
            self.kernel = nnx.data(None)
            self.down, self.up = nnx.Param(jnp.ones((width, 2))), nnx.Param(jnp.ones((2, out)))

        def __call__(self, inputs: Any, out_sharding: Any = None) -> Any:
            assert out_sharding is None
            return inputs @ self.down[...] @ self.up[...]

    model = networks.model_of(lambda rngs: Wrapped(rngs, Factored, 8, 5))
    graph = jp.nnx.trace(model, SEQUENCE)
    keep = {"layer/up": np.arange(5) < 3}
    small = jp.nnx.resize(model, graph, keep)
    assert (small.layer.up.shape, small.layer.out_features, small.last.in_features) == (
        (2, 3),
        5,
        3,
    )


def test_decoding_starts_with_a_new_cache():
    def build(rngs: nnx.Rngs, heads: int) -> nnx.MultiHeadAttention:
        return nnx.MultiHeadAttention(heads, 8, heads * 2, decode=True, rngs=rngs)

    token = np.ones((2, 1, 8), np.float32)
    model = networks.model_of(lambda rngs: build(rngs, 4))
    graph = jp.nnx.trace(model, token, decode=False)
    (heads,) = (name for name, group in graph.groups.items() if group.size == 4)
    keep = {heads: np.array([True, False, True, False])}
    small = jp.nnx.resize(model, graph, keep)
    narrow = networks.model_of(lambda rngs: build(rngs, 2))
    nnx.update(narrow, jp.slice(graph, jp.nnx.variables(model), keep))
    for attention in (small, narrow):
        attention.init_cache((2, 5, 8))
    assert small.cached_key.shape == (2, 5, 2, 2)
    for _ in range(2):
        np.testing.assert_array_equal(small(token), narrow(token))
