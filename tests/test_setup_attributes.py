"""Sizes that `setup` makes are attributes as fields are: found, written down, refused."""

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import ResizeError
from test_found_attributes import X, attend, check, keep_of, traced


class Heads(nn.Module):
    """Heads and their size are made of no field; two others have the same values."""

    def setup(self) -> None:
        self.depth = 4
        self.heads = 4
        self.head_size = 8 // self.heads
        self.q, self.k, self.u = nn.Dense(8), nn.Dense(8), nn.Dense(8)
        self.out = nn.Dense(6)

    def __call__(self, x):
        found = attend(self.q(x), self.k(x), self.u(x), self.heads, self.head_size)
        return x + self.out(found) * (self.depth / 8)


class Listed(Heads):
    """They stand in a dictionary and in a list."""

    def setup(self) -> None:
        self.sizes = {"heads": 4, "each": [2, 7]}
        self.q, self.k, self.u = nn.Dense(8), nn.Dense(8), nn.Dense(8)
        self.out = nn.Dense(6)

    def __call__(self, x):
        sizes = self.sizes["heads"], self.sizes["each"][0]
        return x + self.out(attend(self.q(x), self.k(x), self.u(x), *sizes))


class Configured(Heads):
    """They stand in what Flax does not look into, under a name of the class's own."""

    def setup(self) -> None:
        self._config = SimpleNamespace(heads=4)
        self.q, self.k, self.u = nn.Dense(8), nn.Dense(8), nn.Dense(8)
        self.out = nn.Dense(6)

    @property
    def config(self) -> Any:
        return self._config

    def __call__(self, x):
        return x + self.out(attend(self.q(x), self.k(x), self.u(x), self.config.heads, 2))


class Literal(Heads):
    """The code reads another size than the one that it keeps."""

    def __call__(self, x):
        return x + self.out(attend(self.q(x), self.k(x), self.u(x), 4, self.head_size))


class Net(nn.Module):
    """Two layers."""

    layer: Any = Heads

    def setup(self) -> None:
        self.layers = [self.layer(), self.layer()]
        self.head = nn.Dense(3)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def heads(graph: jp.ChannelGraph, **counts: int) -> dict[str, np.ndarray]:
    """Keeps of the last heads, by the layer."""
    every = {name: g for name, g in graph.groups.items() if g.size == 4}
    return {n: keep for n, keep in keep_of(graph, **counts).items() if n in every}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize(
    ("layer", "way"),
    [(Heads, "heads"), (Listed, "sizes.heads"), (Configured, "_config.heads")],
)
def test_what_setup_makes_is_found(layer: Any, way: str, remat: bool) -> None:
    module = Net(nn.remat(layer) if remat else layer)
    graph, variables = traced(module)
    resized = check(module, graph, variables, heads(graph, layers_0=2, layers_1=3))
    assert resized.overrides == {"layers_0": {way: 2}, "layers_1": {way: 3}}


def test_the_right_one_need_not_be_the_first() -> None:
    graph, variables = traced(Net())
    resized = check(Net(), graph, variables, heads(graph, layers_0=2))
    assert resized.overrides["layers_0"] == {"heads": 2}  # `depth` comes before


def test_what_was_found_can_be_written_down() -> None:
    graph, variables = traced(Net(Listed))
    keep = heads(graph, layers_0=2)
    given = {"layers_0": {"sizes.heads": 2}}
    resized = jp.linen.resize(Net(Listed), graph, keep, overrides=given)
    assert not resized.overrides
    small = jp.slice(graph, variables, keep)
    expected = check(Net(Listed), graph, variables, keep).apply(small, X)
    np.testing.assert_array_equal(resized.apply(small, X), expected)


def test_a_module_that_is_resized_twice_has_the_last_sizes() -> None:
    module = Net()
    graph, variables = traced(module)
    keep = heads(graph, layers_0=3)
    once, small = jp.linen.resize(module, graph, keep), jp.slice(graph, variables, keep)
    again = jp.linen.trace(once, small, X)
    name = next(n for n, g in again.groups.items() if "layers_0" in n and g.size == 3)
    twice = check(once, again, small, {name: np.array([True, False, False])})
    assert twice.bind(jp.slice(again, small, {name: np.arange(3) < 1})).layers[0].heads == 1


def test_the_module_itself_stays_as_it_is() -> None:
    module = Net()
    graph, variables = traced(module)
    before = module.apply(variables, X)
    jp.linen.resize(module, graph, heads(graph, layers_0=2))
    np.testing.assert_array_equal(module.apply(variables, X), before)
    assert module.bind(variables).layers[0].heads == 4


def test_where_the_code_holds_the_size_it_is_refused() -> None:
    graph, _ = traced(Net(Literal))
    with pytest.raises(ResizeError, match="networks with other attributes none is the same"):
        jp.linen.resize(Net(Literal), graph, heads(graph, layers_0=2))


def test_an_override_of_what_nothing_makes_names_what_there_is() -> None:
    graph, _ = traced(Net())
    with pytest.raises(ResizeError, match=r"nheads.*\['depth', 'head_size', 'heads'\]"):
        jp.linen.resize(Net(), graph, {}, overrides={"layers_0": {"nheads": 2}})


def test_a_module_that_the_loop_of_layers_shares_is_set_up_once() -> None:
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = Heads(name="layer")
            return nn.Dense(3, name="head")(layer(layer(x)))

    graph, variables = traced(Shared())
    resized = check(Shared(), graph, variables, heads(graph, layer=2))
    assert resized.overrides == {"layer": {"heads": 2}}
