"""Sizes that modules hold in attributes are found by trying, and only what is the same network."""

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.errors import ResizeError
from jaxprune.running import attribute_search

X = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A configuration that checks itself."""

    layers: int = 2
    heads: int = 4
    hidden: int = 8

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")


def attend(q: Any, k: Any, u: Any, heads: int, size: int) -> Any:
    """Attention whose reshapes know both sizes."""
    q, k, u = (x.reshape(*x.shape[:2], heads, size) for x in (q, k, u))
    weights = nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k))
    return jnp.einsum("bhst,bthd->bshd", weights, u).reshape(*q.shape[:2], heads * size)


class Attention(nn.Module):
    """Heads and their size come from the configuration; the width of the stream does not."""

    config: Any

    @nn.compact
    def __call__(self, x):
        width = self.config.hidden
        q, k, u = (nn.Dense(width, name=name)(x) for name in ("q", "k", "u"))
        found = attend(q, k, u, self.config.heads, width // self.config.heads)
        return x + nn.Dense(x.shape[-1], name="out")(found)


class Stack(nn.Module):
    """Layers of one configuration."""

    config: Any
    layer: Any = Attention

    @nn.compact
    def __call__(self, x):
        for i in range(self.config.layers):
            x = self.layer(self.config, name=f"layer_{i}")(x)
        return nn.Dense(3, name="head")(x)


class Hidden(nn.Module):
    """An inner width in a field, which the code checks, beside another field of the same value."""

    depth: int = 8
    inner: int = 8

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(self.inner, name="up")(x))
        h = h.reshape(*h.shape[:-1], self.inner)
        return nn.Dense(3, name="down")(h) * (self.depth / 8)


class Repeated(nn.Module):
    """Grouped queries: how often a key is repeated stands in a field."""

    heads: int = 6
    repeats: int = 3

    @nn.compact
    def __call__(self, x):
        q = nn.DenseGeneral((self.heads, 4), name="q")(x)
        k, u = (nn.DenseGeneral((self.heads // self.repeats, 4), name=name)(x) for name in "ku")
        k, u = (jnp.repeat(each, self.repeats, axis=2) for each in (k, u))
        weights = nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k))
        return nn.DenseGeneral(3, (-2, -1), name="o")(jnp.einsum("bhst,bthd->bshd", weights, u))


class Literal(nn.Module):
    """The number of heads is written into the code; an attribute has the same value."""

    depth: int = 4

    @nn.compact
    def __call__(self, x):
        q, k, u = (nn.Dense(8, name=name)(x) for name in ("q", "k", "u"))
        return nn.Dense(3, name="out")(attend(q, k, u, 4, q.shape[-1] // 4))


def plain(**values: Any) -> Any:
    """A configuration that is an object of no class of ours."""
    return SimpleNamespace(**{"layers": 2, "heads": 4, "hidden": 8, **values})


def traced(module: nn.Module) -> tuple[jp.ChannelGraph, Any]:
    variables = jax.jit(module.init)(jax.random.key(0), X)
    return jp.linen.trace(module, variables, X), variables


def heads_of(graph: jp.ChannelGraph) -> list[str]:
    """The groups of heads, one for each layer."""
    return [name for name, group in graph.groups.items() if group.size == 4 and "q" not in name]


def keep_of(graph: jp.ChannelGraph, **sizes: int) -> dict[str, np.ndarray]:
    """A keep of so many channels of the groups that a part of the name matches."""
    keep = {}
    for part, count in sizes.items():
        for name, group in graph.groups.items():
            if part in name:
                keep[name] = np.arange(group.size) >= group.size - count
    return keep


def check(module: nn.Module, graph: jp.ChannelGraph, variables: Any, keep: Any) -> Any:
    """The resized module, which computes what the narrow network does."""
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(module, graph, keep)
    expected = jp.narrow(graph.fn, graph, keep)(small, X)
    np.testing.assert_allclose(resized.apply(small, X), expected, rtol=1e-5, atol=1e-5)
    return resized


@pytest.mark.parametrize("config", [Frozen(), plain()], ids=["frozen", "plain"])
def test_two_sizes_of_a_configuration_are_found_at_once(config):
    before = copy.copy(config)
    module = Stack(config)
    graph, variables = traced(module)
    keep = {name: np.arange(4) < 2 for name, group in graph.groups.items() if group.size == 4}
    assert len(keep) == 2
    resized = check(module, graph, variables, keep)
    layers = [f"layer_{i}" for i in range(2)]
    assert resized.overrides == {name: {"config.heads": 2, "config.hidden": 4} for name in layers}
    assert config == before


@pytest.mark.parametrize("layer", [Attention, nn.remat(Attention)], ids=["plain", "remat"])
def test_every_layer_has_the_sizes_of_its_own_channels(layer):
    module = Stack(plain(hidden=20), layer)
    graph, variables = traced(module)
    names = [name for name, group in graph.groups.items() if group.size == 4]
    keep = {name: np.arange(4) < count for name, count in zip(names, (3, 2), strict=True)}
    resized = check(module, graph, variables, keep)
    assert resized.overrides == {
        "layer_0": {"config.heads": 3, "config.hidden": 15},
        "layer_1": {"config.heads": 2, "config.hidden": 10},
    }


def test_the_first_candidate_need_not_be_the_right_one():
    module = Hidden()
    graph, variables = traced(module)
    resized = check(module, graph, variables, keep_of(graph, up=5))
    assert resized.overrides == {"": {"inner": 5}}


def test_a_quotient_of_two_sizes():
    module = Repeated()
    graph, variables = traced(module)
    (name,) = (name for name, group in graph.groups.items() if group.size == 3)
    resized = check(module, graph, variables, {name: np.arange(3) < 2})
    assert resized.overrides == {"": {"repeats": 2}}


def test_where_no_value_is_right_it_is_refused_and_says_how_near_it_came(monkeypatch):
    module = Literal()
    graph, _ = traced(module)
    keep = {name: np.arange(4) < 2 for name, group in graph.groups.items() if group.size == 4}
    tried = []
    attempt = attribute_search._Search.tried
    monkeypatch.setattr(
        attribute_search._Search, "tried", lambda *args: (tried.append(1), attempt(*args))[1]
    )
    with pytest.raises(ResizeError, match=r"networks with other attributes none is the same"):
        jp.linen.resize(module, graph, keep)
    assert 0 < len(tried) < 20


def test_other_values_of_an_attribute_that_is_not_read_come_last(monkeypatch):
    class Unread(Literal):
        """Beside sizes in the code fields that nothing reads."""

        one: int = 8
        two: int = 4

    graph, _ = traced(Unread())
    names = [name for name, group in graph.groups.items() if group.size in (2, 4)]
    keep = {name: np.arange(graph.groups[name].size) < 1 for name in names}
    tried: list[Any] = []
    attempt = attribute_search._Search.tried

    def counted(search: Any, changes: Any) -> Any:
        changes = list(changes)
        tried.extend(change.way for change in changes[-1] if len(changes[-1]) == 1)
        return attempt(search, changes)

    monkeypatch.setattr(attribute_search._Search, "tried", counted)
    with pytest.raises(ResizeError):
        jp.linen.resize(Unread(), graph, keep)
    assert sorted(tried[:4]) == ["depth", "features", "one", "two"]
    assert len(tried) > 4


def test_what_was_found_can_be_written_down(monkeypatch):
    module = Stack(Frozen())
    graph, variables = traced(module)
    keep = {name: np.arange(4) < 3 for name, group in graph.groups.items() if group.size == 4}
    found = jp.linen.resize(module, graph, keep)
    assert found.overrides == jp.linen.resize(module, graph, keep).overrides
    assert "heads=3" in repr(found)
    monkeypatch.setattr(attribute_search, "TRIES", 0)
    given = jp.linen.resize(module, graph, keep, overrides=found.overrides)
    assert given.overrides == {}
    small = jp.slice(graph, variables, keep)
    np.testing.assert_array_equal(given.apply(small, X), found.apply(small, X))
    with pytest.raises(ResizeError, match="does not run at the kept widths"):
        jp.linen.resize(module, graph, keep)


@pytest.mark.parametrize("way", ["config.absent", "config.heads.0"])
def test_a_way_that_leads_nowhere_is_an_error(way):
    module = Stack(Frozen())
    graph, _ = traced(module)
    with pytest.raises(ResizeError, match=rf"overrides give .*{way}"):
        jp.linen.resize(module, graph, {}, overrides={"layer_0": {way: 3}})


class NnxAttention(nnx.Module):
    """As `Attention`; the size of a head is an attribute of its own."""

    def __init__(self, config: Any, rngs: nnx.Rngs):
        self.config, self.size = config, config.hidden // config.heads
        self.q, self.k, self.u = (nnx.Linear(6, config.hidden, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(config.hidden, 6, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        found = attend(self.q(x), self.k(x), self.u(x), self.config.heads, self.size)
        return x + self.out(found)


class NnxStack(nnx.Module):
    """As `Stack`."""

    def __init__(self, config: Any, rngs: nnx.Rngs):
        self.layers = nnx.List([NnxAttention(config, rngs) for _ in range(config.layers)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_attributes_of_nnx_models_are_found_too():
    model = NnxStack(Frozen(), nnx.Rngs(0))
    graph, variables = jp.nnx.trace(model, X), jp.nnx.variables(model)
    names = [name for name, group in graph.groups.items() if group.size == 4]
    keep = {name: np.arange(4) < count for name, count in zip(names, (3, 2), strict=True)}
    small = jp.nnx.resize(model, graph, keep)
    expected = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), X)[0]
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)
    assert jp.nnx.overrides(graph, keep) == {
        "layers/0": {"config.heads": 3},
        "layers/1": {"config.heads": 2},
    }
    assert [layer.config.heads for layer in small.layers] == [3, 2]
    assert [layer.config.heads for layer in model.layers] == [4, 4]


class Part(nnx.Module):
    """A matrix that keeps its own shape."""

    def __init__(self, shape: tuple[int, ...], rngs: nnx.Rngs):
        self.shape = shape
        self.w = nnx.Param(nnx.initializers.normal()(rngs.params(), shape))


class Parted(nnx.Module):
    """The number of heads is a property, which reads it from a part."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = Part((6, 4, 5), rngs)
        self.last = Part((20, 3), rngs)

    @property
    def heads(self) -> int:
        return self.first.shape[1]

    def __call__(self, x):
        y = jnp.einsum("bsi,ihd->bshd", x, self.first.w[...])
        y = nnx.relu(y).reshape(*x.shape[:2], self.heads * y.shape[-1])
        return y @ jnp.reshape(self.last.w[...], (y.shape[-1], 3))


class Split(nnx.Module):
    """What is split off first is what the other sizes leave, that is, nothing."""

    def __init__(self, rngs: nnx.Rngs, extra: int = 0):
        self.depth = 8
        self.inner = 8
        self.state = 4
        self.heads = 2
        self.extra = extra
        self.up = nnx.Linear(6, 8 + 4 + 2, rngs=rngs)
        self.down = nnx.List([nnx.Linear(n, 3, rngs=rngs) for n in (8, 4, 2)])

    def __call__(self, x):
        with jax.named_scope("inside"):
            y = nnx.relu(self.up(x))
            rest = y.shape[-1] - self.inner - self.state - self.heads
            if rest < 0 or (self.extra and y.shape[-1] != 14):
                raise ValueError("too narrow")
            ends = np.cumsum([rest, self.inner, self.state])
            parts = jnp.split(y, ends, axis=-1)[1:]
        return sum(down(part) for down, part in zip(self.down, parts, strict=True))


class Scoped(nnx.Module):
    """A module below a scope of its own name."""

    def __init__(self, rngs: nnx.Rngs, extra: int = 0):
        self.layers = nnx.List([Split(rngs, extra)])

    def __call__(self, x):
        with jax.named_scope("of"), jax.named_scope("the_user"):
            return self.layers[0](x)


def test_a_property_that_reads_a_part_is_found():
    model = Parted(nnx.Rngs(0))
    graph, variables = jp.nnx.trace(model, X), jp.nnx.variables(model)
    keep = keep_of(graph, **{"first/w": 3})
    small = jp.nnx.resize(model, graph, keep)
    expected = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), X)[0]
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)
    assert (small.heads, model.heads) == (3, 4)


def test_sizes_that_only_fit_together_are_found_below_a_scope_and_no_others():
    model = Scoped(nnx.Rngs(0))
    graph, variables = jp.nnx.trace(model, X), jp.nnx.variables(model)
    sizes = {8: 5, 4: 3, 2: 1}
    keep = {n: np.arange(g.size) < sizes[g.size] for n, g in graph.groups.items()}
    small = jp.nnx.resize(model, graph, keep)
    expected = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), X)[0]
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)
    assert jp.nnx.overrides(graph, keep) == {"layers/0": {"inner": 5, "state": 3, "heads": 1}}


def test_where_no_sizes_fit_together_it_is_refused():
    model = Scoped(nnx.Rngs(0), extra=1)
    graph = jp.nnx.trace(model, X)
    keep = {name: np.arange(group.size) < group.size // 2 for name, group in graph.groups.items()}
    with pytest.raises(ResizeError, match="too narrow"):
        jp.nnx.resize(model, graph, keep)


def test_only_a_resize_searches(monkeypatch):
    graph, variables = traced(Stack(plain()))
    monkeypatch.setattr(attribute_search, "_Search", None)
    keep = jp.slimmable.prefix(graph, 0.5, divisor=1)
    assert jp.slice(graph, variables, keep)
    with pytest.raises(TypeError):
        jp.linen.resize(Stack(plain()), graph, keep)
