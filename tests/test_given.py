"""What is given to `resize` is what was traced: another module, model or function is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp

X = jnp.ones((1, 8, 8, 3))
KEEP = {"first/kernel": np.arange(8) < 5}


class Net(nn.Module):
    """A network with everything in a field that does not show in a shape."""

    act: Callable[..., Any] = nn.relu
    dilation: int = 1
    epsilon: float = 1e-5
    norm: Any = nn.BatchNorm
    rate: float = 0.5
    head: nn.Module = nn.Dense(3)
    scale: float = 2.0

    def setup(self):
        self.first = nn.Conv(8, (3, 3), kernel_dilation=self.dilation)
        self.bn = self.norm(epsilon=self.epsilon)
        self.dropout = nn.Dropout(self.rate)

    def __call__(self, x, train=False):
        return self.head(self.encode(x, train).mean((1, 2)))

    def encode(self, x, train=False):
        x = self.act(self.bn(self.first(x), use_running_average=not train))
        return self.scale * self.dropout(x, deterministic=not train)


class Other(Net):
    """The same network from another class."""


def built(**fields: Any) -> Net:
    """Returns a network whose fields are made anew."""
    return Net(act=lambda x: nn.relu(x), norm=partial(nn.BatchNorm, momentum=0.9), **fields)


VARIABLES = Net().init(jax.random.key(0), X)


def graphs(module: nn.Module, **call: Any) -> dict[str, jp.ChannelGraph]:
    """Returns the ways to trace a module."""

    def wrapped(v, x):
        return jnp.tanh(module.apply(v, 2 * x, **call))

    return {
        "trace": jp.linen.trace(module, VARIABLES, X, **call),
        "closure": jp.trace(lambda v, x: module.apply(v, x, **call), VARIABLES, X),
        "method": jp.trace(partial(module.apply, **call), VARIABLES, X),
        "wrapped": jp.trace(wrapped, VARIABLES, X),
        "jit": jp.trace(jax.jit(lambda v, x: module.apply(v, x, **call)), VARIABLES, X),
        "siamese": jp.trace(
            lambda v, x: jnp.hypot(module.apply(v, x, **call), module.apply(v, -x, **call)),
            VARIABLES,
            X,
        ),
    }


GRAPHS = graphs(Net())

DIFFERING = {
    "activation": (Net(act=jnp.sin), r"custom_jvp_call\(.*became sin\("),
    "dilation": (Net(dilation=2), r"conv_general_dilated\(.*should have (padding|rhs_dilation)="),
    "epsilon": (Net(epsilon=1e-3), r"add\(.*reads the constant 0.001, it was 1e-05"),
    "scale": (Net(scale=3.0), r"mul\(.*reads the constant 3, it was 2"),
    "submodule": (Net(head=nn.Dense(3, use_bias=False)), r"(reshape|broadcast|add)\(.*"),
    "norm": (
        Net(norm=partial(nn.BatchNorm, dtype=jnp.bfloat16)),
        "convert_element_type",
    ),
    "class": (nn.Sequential([nn.Conv(8, (3, 3), name="first")]), ".*"),
}


@pytest.mark.parametrize("way", [way for way in GRAPHS if way != "jit"])
@pytest.mark.parametrize("name", DIFFERING)
def test_another_module_is_refused_and_the_equation_named(way, name):
    module, text = DIFFERING[name]
    with pytest.raises(jp.errors.ResizeError, match=text) as error:
        jp.linen.resize(module, GRAPHS[way], KEEP)
    if name != "class":
        assert str(error.value).startswith("the module is not the one that was traced: ")
        assert "(near the variable" in str(error.value) or "constant" in str(error.value)
    assert "The module given differs: it" in str(error.value)
    assert str(error.value).endswith(
        "Fix: pass the module that was traced, or trace this one: jp.linen.trace(module, ...)."
    )


ALIKE = {
    "the same": Net(),
    "a clone": Net().clone(),
    "made anew": built(),
    "what the call does not use": Net(rate=0.1),
    "another class": Other(),
    "a name": Net(name="net"),
    "a numerically equal field": Net(scale=2),
}


@pytest.mark.parametrize("way", [way for way in GRAPHS if way != "jit"])
@pytest.mark.parametrize("name", ALIKE)
def test_a_module_that_makes_the_same_program_is_taken(way, name):
    graph = GRAPHS[way]
    small = jp.linen.resize(ALIKE[name], graph, KEEP)
    cut = jp.slice(graph, VARIABLES, KEEP)
    wanted = jp.narrow(lambda v, x: Net().apply(v, x), GRAPHS["trace"], KEEP)(cut, X)
    np.testing.assert_allclose(small.apply(cut, X), wanted, rtol=1e-6)


def test_what_is_taken_is_what_is_returned():
    """The module given, not the one that was traced: what the call does not show stays."""
    small = jp.linen.resize(Net(rate=0.1), GRAPHS["closure"], KEEP)
    assert small.original.module.rate == 0.1


@pytest.mark.parametrize("module", [Net(), Net(epsilon=1e-3)])
def test_a_call_hidden_in_a_cached_jit_is_refused(module):
    run = jax.jit(lambda v, x: Net().apply(v, x))
    graph = jp.trace(run, VARIABLES, X)
    with pytest.raises(jp.errors.ResizeError, match=r"hides it in a cached jit(.|\n)*Fix:"):
        jp.linen.resize(module, graph, KEEP)


METHODS = {
    "named": {"method": "encode"},
    "function": {"method": Net.encode},
    "lambda": {"method": lambda module, x: module.encode(x)},
    "parts": {"method": lambda module, x: module.bn(module.first(x), use_running_average=True)},
    "field": {"method": lambda module, x: module.encode(x) * module.rate},
}


@pytest.mark.filterwarnings("ignore::jaxprune.errors.UnreadWarning")
@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    """Where a function stands between, it may read the module: then it must be built alike."""
    call = METHODS[name]
    outputs: dict[str, Any] = {"free_outputs": [""]}
    traced = jp.linen.trace(Net(), VARIABLES, X, **outputs, **call)
    closure = jp.trace(lambda v, x: Net().apply(v, x, **call), VARIABLES, X, **outputs)
    for graph in (traced, closure):
        for module in (Net(), Net().clone()):
            small = jp.linen.resize(module, graph, KEEP)
            cut = jp.slice(graph, VARIABLES, KEEP)
            wanted = jp.narrow(graph.fn, graph, KEEP)(cut, X)
            np.testing.assert_allclose(small.apply(cut, X, **call), wanted, rtol=1e-6)
        for other in (Net(dilation=2), Net(epsilon=1e-3)):
            with pytest.raises(jp.errors.ResizeError, match="not the one that was traced"):
                jp.linen.resize(other, graph, KEEP)
    if name == "field":
        with pytest.raises(jp.errors.ResizeError, match=r"constant 0.1, it was 0.5"):
            jp.linen.resize(Net(rate=0.1), traced, KEEP)
    else:
        assert jp.linen.resize(Net(rate=0.1), traced, KEEP)
    if name in ("named", "function"):
        assert jp.linen.resize(Net(rate=0.1), closure, KEEP)
    else:
        with pytest.raises(jp.errors.ResizeError, match=r"traced: its rate is 0.1, that of the"):
            jp.linen.resize(Net(rate=0.1), closure, KEEP)


@pytest.mark.filterwarnings("ignore::jaxprune.errors.UnreadWarning")
def test_a_bound_submodule():
    def bound(v, x):
        return Net().bind(v).first(x)

    graph = jp.trace(bound, VARIABLES, X, free_outputs=[""])
    assert jp.linen.resize(Net(), graph, KEEP)
    with pytest.raises(
        jp.errors.ResizeError,
        match=r"traced: its dilation is 2, that of the traced module is 1.\nFix:",
    ):
        jp.linen.resize(Net(dilation=2), graph, KEEP)


class Encoder(nn.Module):
    """Half of a network of two top-level modules."""

    act: Callable[..., Any] = nn.relu

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(8, name="encoder")(x))


class Decoder(nn.Module):
    """The other half."""

    act: Callable[..., Any] = nn.tanh

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(2, name="decoder")(x))


def test_one_of_two_top_level_modules():
    def both(v, x):
        return Decoder().apply(v, Encoder().apply(v, x))

    x = jnp.ones((1, 3))
    params = {
        **Encoder().init(jax.random.key(0), x)["params"],
        **Decoder().init(jax.random.key(0), jnp.ones((1, 8)))["params"],
    }
    graph = jp.trace(both, {"params": params}, x)
    keep = {"encoder/kernel": np.arange(8) < 3}
    small = jp.slice(graph, {"params": params}, keep)
    encoder = jp.linen.resize(Encoder(act=lambda x: nn.relu(x)), graph, keep)
    decoder = jp.linen.resize(Decoder(), graph, keep)
    found = decoder.apply(small, encoder.apply(small, x))
    np.testing.assert_allclose(found, jp.narrow(both, graph, keep)(small, x), rtol=1e-6)
    for other, text in ((Encoder(act=nn.tanh), "became tanh"), (Decoder(act=nn.relu), "tanh")):
        with pytest.raises(jp.errors.ResizeError, match=text):
            jp.linen.resize(other, graph, keep)


def test_one_of_two_that_is_hidden_in_a_cached_jit_is_refused():
    encode = jax.jit(lambda v, x: Encoder().apply(v, x))

    def both(v, x):
        return encode(v, Decoder().apply(v, x))

    x = jnp.ones((1, 2))
    params = {
        **Encoder().init(jax.random.key(0), x)["params"],
        **Decoder().init(jax.random.key(0), x)["params"],
    }
    graph = jp.trace(both, {"params": params}, x, free_outputs=[""])
    with pytest.raises(jp.errors.ResizeError, match="hides it in a cached jit"):
        jp.linen.resize(Encoder(act=nn.tanh), graph, {"encoder/kernel": np.arange(8) < 3})


class Shared(nn.Module):
    """A module whose child shares its scope."""

    act: Callable[..., Any] = nn.relu

    def setup(self):
        self.child = nn.Dense(8)
        nn.share_scope(self, self.child)
        self.last = nn.Dense(2)

    def __call__(self, x):
        return self.last(self.act(self.child(x)))


class Compact(nn.Module):
    """A module without setup."""

    act: Callable[..., Any] = nn.relu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.act(nn.Dense(8)(x)))


@pytest.mark.parametrize("transform", [lambda kind: kind, nn.remat])
@pytest.mark.parametrize("kind", [Shared, Compact])
def test_shared_scopes_and_transforms(kind, transform):
    x = jnp.ones((1, 3))
    make = transform(kind)
    variables = make().init(jax.random.key(0), x)
    for graph in (
        jp.linen.trace(make(), variables, x),
        jp.trace(lambda v, x: make().apply(v, x), variables, x),
    ):
        (name,) = graph.groups
        keep = {name: np.arange(8) < 3}
        cut = jp.slice(graph, variables, keep)
        wanted = jp.narrow(graph.fn, graph, keep)(cut, x)
        for module in (make(), transform(kind)()):
            small = jp.linen.resize(module, graph, keep)
            np.testing.assert_allclose(small.apply(cut, x), wanted, rtol=1e-6)
        with pytest.raises(jp.errors.ResizeError, match=r"became tanh|its act is"):
            jp.linen.resize(make(act=nn.tanh), graph, keep)


def test_the_training_call_with_rngs_and_mutable():
    call = {"train": True, "rngs": {"dropout": jax.random.key(1)}, "mutable": ["batch_stats"]}
    graph = jp.linen.trace(Net(), VARIABLES, X, **call)
    small = jp.linen.resize(Net(), graph, KEEP)
    cut = jp.slice(graph, VARIABLES, KEEP)
    assert small.apply(cut, X, **call)[1]["batch_stats"]["bn"]["mean"].shape == (5,)
    with pytest.raises(jp.errors.ResizeError, match=r"constant 0.9, it was 0.5|0.1.*0.5"):
        jp.linen.resize(Net(rate=0.1), graph, KEEP)


def test_a_resized_module_is_compared_too():
    first = jp.linen.resize(Net(), GRAPHS["trace"], KEEP)
    cut = jp.slice(GRAPHS["trace"], VARIABLES, KEEP)
    other = jp.linen.resize(Net(act=nn.tanh), jp.linen.trace(Net(act=nn.tanh), VARIABLES, X), KEEP)
    for graph in (
        jp.linen.trace(first, cut, X),
        jp.trace(lambda v, x: first.apply(v, x), cut, X),
        jp.trace(partial(first.apply, method="__call__"), cut, X),
    ):
        keep = {"first/kernel": np.array([True, False, True, False, True])}
        assert jp.linen.resize(first, graph, keep)
        with pytest.raises(jp.errors.ResizeError, match="became tanh"):
            jp.linen.resize(other, graph, keep)


WRONG: list[Any] = [Net, Net().apply, KEEP]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: jp.linen.trace(WRONG[0], VARIABLES, X),
            r"expected a flax.linen.Module, got the class",
        ),
        (lambda: jp.linen.trace(WRONG[1], VARIABLES, X), "Module, got a method"),
        (lambda: jp.linen.resize(WRONG[2], GRAPHS["trace"], KEEP), "got a dict"),
    ],
)
def test_what_is_no_module_or_argument(call: Any, text: str):
    with pytest.raises(jp.errors.TraceError, match=rf"{text}(.|\n)*Fix:"):
        call()


class Model(nnx.Module):
    """The same in NNX."""

    def __init__(self, act=nnx.relu, dilation=1, epsilon=1e-5, rate=0.5, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Conv(3, 8, (3, 3), kernel_dilation=dilation, rngs=rngs)
        self.bn = nnx.BatchNorm(8, epsilon=epsilon, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)
        self.act = act

    def __call__(self, x, scale=1.0):
        return self.last(scale * self.dropout(self.act(self.bn(self.first(x)))).mean((1, 2)))


@pytest.mark.parametrize("train", [False, True])
def test_nnx_models(train):
    model = Model()
    (model.train if train else model.eval)()
    graph = jp.nnx.trace(model, X, scale=2.0)
    for fresh in (Model(seed=1), Model(act=lambda x: nnx.relu(x)), nnx.clone(model)):
        fresh.eval()
        small = jp.nnx.resize(fresh, graph, KEEP)
        assert small.bn.use_running_average
        assert small.first.kernel.shape[-1] == 5
    cases: list[tuple[Any, str]] = [
        (Model(act=jnp.sin), r"custom_jvp_call\(.*became sin"),
        (Model(dilation=2), r"at first should have (padding|rhs_dilation)"),
        (Model(epsilon=1e-3), r"add\(.* at bn reads the constant 0.001, it was 1e-05"),
    ]
    if train:
        cases.append((Model(rate=0.1), r"at dropout reads the constant"))
    else:
        assert jp.nnx.resize(Model(rate=0.1), graph, KEEP)
    for other, text in cases:
        with pytest.raises(jp.errors.ResizeError, match=f"not the one that was traced: .*{text}"):
            jp.nnx.resize(other, graph, KEEP)


def test_plain_functions():
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
    x = jnp.ones((1, 3))

    def network(v, x, epsilon=1e-5, act=jax.nn.relu):
        h = act(x @ v["a"])
        return (h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + epsilon)) @ v["b"]

    graph = jp.trace(network, v, x)
    keep = {"a": np.arange(8) < 5}
    (follows,) = jp.resize(lambda v, x: network(v, x), graph, keep).follows
    assert follows.endswith("8 became 5")
    with pytest.raises(jp.errors.ResizeError, match=r"became sin"):
        jp.resize(partial(network, act=jnp.sin), graph, keep)
    with pytest.raises(
        jp.errors.ResizeError, match=r"full widths too, add\(.*: 1e-05 became 0.001.\nFix: pass"
    ):
        jp.resize(partial(network, epsilon=1e-3), graph, keep)
