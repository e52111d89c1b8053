"""Windows that start at a constant: what is written into or taken from a piece of the channels."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from test_zoo_attention import check_narrow

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


V = {"a": normal(5, 8), "s": normal(5, 3), "b": normal(8, 6), "t": normal(3, 6), "c": normal(6, 2)}
X = normal(4, 5)


def chosen(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """A keep that is no prefix, of about half of every group."""
    groups = graph.groups.items()
    return {name: np.arange(g.size) % 2 == (g.size + 1) % 2 for name, g in groups}


def places(group: jp.Group) -> set[tuple[str, int]]:
    return {(slot.path, slot.axis) for slot in group.slots}


WRITTEN: dict[str, Callable[..., Any]] = {
    "set": lambda h, s: h.at[..., 2:5].set(s),
    "set one number": lambda h, s: (h.at[..., 2:5].set(0.5)).at[..., 2:5].add(s),
    "add": lambda h, s: h.at[:, 2:5].add(s),
    "add from behind": lambda h, s: h.at[:, -6:-3].add(s),
    "multiply": lambda h, s: h.at[..., 2:5].multiply(s),
    "max": lambda h, s: h.at[..., 2:5].max(s),
    "apply": lambda h, s: h.at[..., 2:5].set(h[..., 2:5] * s),
    "update": lambda h, s: lax.dynamic_update_slice(h, s, (0, 2)),
    "update in an axis": lambda h, s: lax.dynamic_update_slice_in_dim(h, s, 2, axis=1),
    "an array as start": lambda h, s: lax.dynamic_update_slice_in_dim(h, s, jnp.int32(2), 1),
    "inside of a jit": jax.jit(lambda h, s: h.at[..., 2:5].set(s)),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_what_is_written_ties_to_the_piece_that_it_is_written_to(how: str) -> None:
    def fn(v: Any, x: Any) -> Any:
        h, s = jnp.tanh(x @ v["a"]), jnp.tanh(x @ v["s"])
        h = jnp.tanh(WRITTEN[how](h, s) @ v["b"])
        return (h + jnp.tanh(s) @ v["t"]) @ v["c"]

    graph = jp.trace(fn, V, X)
    assert sorted(group.size for group in graph.groups.values()) == [2, 3, 3, 6]
    (written,) = (group for group in graph.groups.values() if ("t", 0) in places(group))
    assert places(written) == {("a", 1), ("b", 0), ("s", 1), ("t", 0)}
    assert not any(group.inexact for group in graph.groups.values())
    keep = chosen(graph)
    check_narrow(graph, V, keep, X)
    narrowed = jp.trace(jp.narrow(fn, graph, keep), jp.slice(graph, V, keep), X)
    assert jp.cost.macs(narrowed) == jp.cost.macs(graph, keep)


@pytest.mark.parametrize("index", [3, -2, np.int32(5)])
def test_one_index_stays_and_the_others_go(index: Any) -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["a"]).at[:, index].set(1.0)
        return jnp.tanh(h @ v["b"]) @ v["c"]

    v = {key: V[key] for key in "abc"}
    graph = jp.trace(fn, v, X)
    place = int(index) % 8
    sizes = [g.size for g in graph.groups.values() if ("a", 1) in places(g)]
    assert sizes == [place, 7 - place][: 2 if place < 6 else 1]
    keep = chosen(graph)
    check_narrow(graph, v, keep, X)


def test_a_buffer_that_is_filled_piece_by_piece_is_their_concatenation() -> None:
    def fn(v: Any, x: Any) -> Any:
        buffer = jnp.zeros((len(x), 11)).at[:, :8].set(jnp.tanh(x @ v["a"]))
        return jnp.tanh(buffer.at[:, 8:].set(x @ v["s"]) @ v["d"]) @ v["c"]

    v = {"a": V["a"], "s": V["s"], "d": normal(11, 6), "c": V["c"]}
    graph = jp.trace(fn, v, X)
    assert {name: group.size for name, group in graph.groups.items()} == {"a": 8, "s": 3, "d": 6}
    keep = {"a": np.arange(8) % 3 > 0, "s": np.arange(3) > 0, "d": np.arange(6) % 2 > 0}
    check_narrow(graph, v, keep, X)


FROZEN: dict[str, Callable[..., Any]] = {
    "a stride": lambda h, _: h.at[:, ::2].add(1.0),
    "several indices": lambda h, _: h.at[:, np.array([3, 1])].add(1.0),
    "truths": lambda h, _: h.at[:, np.arange(8) % 3 == 0].set(0.0),
    "an input": lambda h, i: h.at[:, i].set(0.0),
    "a window at an input": lambda h, i: lax.dynamic_update_slice_in_dim(h, h[:, :2], i, axis=1),
}


@pytest.mark.parametrize("how", FROZEN)
def test_channels_that_are_written_by_other_indices_are_frozen(how: str) -> None:
    def fn(v: Any, x: Any, i: Any) -> Any:
        return FROZEN[how](jnp.tanh(x @ v["a"]), i) @ v["b"]

    v = {key: V[key] for key in "ab"}
    graph = jp.trace(fn, v, X, 2)
    assert graph.groups == {}
    assert {f.reason for f in graph.frozen} & {"indexed by scatter", "dynamic update slice"}


class Net(nn.Module):
    """Writes `small` channels into `wide` ones, from a place that the widths give or a number."""

    wide: int = 8
    small: int = 3
    fixed: bool = False
    update: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = jnp.tanh(nn.Dense(self.wide, name="wide")(x))
        s = jnp.tanh(nn.Dense(self.small, name="small")(x))
        start = 2 if self.fixed else self.wide - self.small
        if self.update:
            h = lax.dynamic_update_slice_in_dim(h, s, start, axis=1)
        else:
            h = h.at[:, start : start + self.small].set(s)
        return nn.Dense(2, name="head")(h)


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_module_must_start_its_windows_where_the_kept_channels_do(
    fixed: bool, update: bool
) -> None:
    module = Net(fixed=fixed, update=update)
    v = jax.tree.map(np.asarray, module.init(jax.random.key(0), X))
    graph = jp.trace(module.apply, v, X)
    keep = {name: np.arange(g.size) > 0 for name, g in graph.groups.items()}
    assert len(keep) == 2 + fixed
    if fixed:
        with pytest.raises(jp.errors.ResizeError, match=r"should start its window at \[?1\]? at"):
            jp.linen.resize(module, graph, keep, overrides={"": {"wide": 5, "small": 2}})
        return
    small = jp.linen.resize(module, graph, keep)
    wanted = module.apply(jp.mask(graph, v, keep), X)
    np.testing.assert_allclose(small.apply(jp.slice(graph, v, keep), X), wanted, 1e-5, 1e-6)


def test_an_integer_that_is_more_than_a_start_must_stay() -> None:
    class Two(nn.Module):
        wide: int = 8

        @nn.compact
        def __call__(self, x: Any) -> Any:
            h = jnp.tanh(nn.Dense(self.wide, name="wide")(x))
            s = jnp.tanh(nn.Dense(3, name="small")(x))
            start = jnp.add(jnp.int32(self.wide - 3), jnp.int32(0))
            h = lax.dynamic_update_slice_in_dim(h, s, start, axis=1)
            return nn.Dense(2, name="head")(h * start)

    module = Two()
    v = jax.tree.map(np.asarray, module.init(jax.random.key(0), X))
    graph = jp.trace(module.apply, v, X)
    (first,) = (name for name, group in graph.groups.items() if group.size == 5)
    keep = {first: np.arange(5) > 0}
    with pytest.raises(jp.errors.ResizeError, match="reads the constant 4, it was 5"):
        jp.linen.resize(module, graph, keep, overrides={"": {"wide": 7}})


LOOKED_UP: dict[str, Callable[..., Any]] = {
    "a row": lambda table, i: table[i],
    "a column": lambda table, i: table.T[:, i],
    "a row of a row": lambda table, i: table.reshape(1, *table.shape)[0, i],
    "a dynamic slice": lambda table, i: lax.dynamic_slice(table, (i, 0), (1, table.shape[1]))[0],
    "dynamic indexing": lambda table, i: lax.dynamic_index_in_dim(table, i, keepdims=False),
    "from behind": lambda table, i: table[i - 5],
}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("how", LOOKED_UP)
def test_a_look_up_of_one_example_may_wrap_at_the_kept_width(how: str, twice: bool) -> None:
    """`vmap` makes columns of indices of the starts in all axes, each wrapped by its size."""
    v = {"table": jnp.array(normal(5, 8)), "b": jnp.array(normal(8, 2))}
    ids = jnp.array([0, 4, 2])

    def fn(v: Any, ids: Any) -> Any:
        each = jax.vmap(lambda i: LOOKED_UP[how](v["table"], i) @ v["b"])
        return (jax.vmap(each) if twice else each)(ids)

    ids = ids[None] if twice else ids
    graph = jp.trace(fn, v, ids)
    keep = {name: np.arange(8) % 2 == 0 for name in graph.groups}
    assert len(keep) == 1
    small = jp.slice(graph, v, keep)
    run = jp.resize(fn, graph, keep)
    np.testing.assert_allclose(run(small, ids), fn(jp.mask(graph, v, keep), ids), 1e-5, 1e-6)


def test_a_start_that_is_another_number_at_the_kept_width_is_refused() -> None:
    v = {"table": jnp.array(normal(5, 8)), "b": jnp.array(normal(8, 2))}

    def fn(v: Any, ids: Any) -> Any:
        column = 8 - v["table"].shape[1]  # 0 at the full width

        def each(i: Any) -> Any:
            return lax.dynamic_slice(v["table"], (i, i * 0 + column), (1, v["table"].shape[1]))[0]

        return jax.vmap(each)(ids) @ v["b"]

    ids = jnp.array([0, 4, 2])
    graph = jp.trace(fn, v, ids)
    keep = {name: np.arange(8) % 2 == 0 for name in graph.groups}
    with pytest.raises(jp.errors.ResizeError, match="reads the constant 4, it was 0"):
        jp.resize(fn, graph, keep)
