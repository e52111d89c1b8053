"""Peak memory: counts by hand to the byte, and what XLA says of small networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cost

B, F = 3, 4  # rows, and the bytes of a number
X = np.ones((B, 2), np.float32)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def peak(fn: Callable[..., Any], v: Any, keep: Any = None, *inputs: Any) -> int:
    return cost.peak_memory(jp.trace(fn, v, *(inputs or (X,))), keep)


V = weights(up=(2, 8), bias=(8,), down=(8, 2), head=(2, 5))


def test_a_chain_holds_the_two_ends_of_a_contraction() -> None:
    def fn(v: Any, x: Any) -> Any:
        return jax.nn.relu(x @ v["up"] + v["bias"][None]) @ v["down"] @ v["head"]

    # The bias is added, and relu applied, in the place of the product.
    assert peak(fn, V) == F * B * (8 + 2)
    assert peak(fn, V, {"up": 3}) == F * B * max(3 + 2, 2 + 5)
    assert peak(fn, V, {"up": 6}) == F * B * (6 + 2)


def test_what_several_read_is_kept_and_what_one_reads_is_not() -> None:
    def several(v: Any, x: Any) -> Any:
        y = jnp.exp(x @ v["up"])
        return (y / y.sum(-1, keepdims=True)) @ v["down"]

    def single(v: Any, x: Any) -> Any:
        return jnp.exp(x @ v["up"]).sum(-1)

    def broadcast(v: Any, x: Any) -> Any:
        bias = jnp.broadcast_to(v["bias"], (B, 8))
        return ((x @ v["up"] + bias) * bias) @ v["down"]

    assert peak(broadcast, V) == F * B * (8 + 2)  # each reader broadcasts it again
    assert peak(several, V) == F * B * (8 + 2)  # the sums, 1 each, are gone by then
    assert peak(single, V) == F * B * (8 + 1)  # exp is computed as it is summed


def test_a_residual_stream_stays_until_it_is_added() -> None:
    def fn(v: Any, x: Any) -> Any:
        x = x @ v["up"]
        return (x + x @ v["down"] @ v["again"]) @ v["back"]

    v = V | weights(again=(2, 8), back=(8, 2))
    graph = jp.trace(fn, v, X)
    assert cost.peak_memory(graph) == F * B * (8 + 2 + 8)
    (branch,) = jp.branches(graph)
    assert cost.peak_memory(graph, {branch: False}) == F * B * (8 + 2)


def test_transposed_and_converted_operands_of_a_contraction_are_kept() -> None:
    def fn(v: Any, x: Any) -> Any:
        y = (x @ v["up"]).T.astype(jnp.bfloat16)
        return y @ y.T

    assert peak(fn, V) == max(F * B * 8 + 2 * 8 * B, 2 * (2 * 8 * B) + 2 * 64)


def test_a_reshaped_array_is_the_array_and_an_output_that_is_an_input_a_copy() -> None:
    def fn(v: Any, x: Any) -> Any:
        y = x @ v["up"]
        return y.reshape(-1), x

    assert peak(fn, V) == F * B * (8 + 2)


def test_a_scan_holds_its_carry_and_the_rows_of_one_step() -> None:
    v = weights(stem=(2, 6), layers=(5, 6, 6), head=(6, 2))

    def fn(v: Any, x: Any) -> Any:
        def step(x: Any, w: Any) -> Any:
            y = jnp.tanh(x @ w)
            return x + y, y.sum()

        x, sums = jax.lax.scan(step, x @ v["stem"], v["layers"])
        return x @ v["head"], sums

    # Carry, kernel of the step, product; the sum is of a step beside those of all.
    def by_hand(n: int) -> int:
        before_product_is_free = F * (B * n + n * n + B * n)
        with_sum = F * (B * n + B * n + 1)
        return max(before_product_is_free, with_sum) + 5 * F

    graph = jp.trace(fn, v, X)
    (name,) = graph.groups
    assert cost.peak_memory(graph) == by_hand(6)
    assert cost.peak_memory(graph, {name: 4}) == by_hand(4)


def test_a_while_loop_holds_its_carry_once() -> None:
    def fn(v: Any, x: Any) -> Any:
        y = x @ v["up"]
        _, y = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, y))
        return y

    count = np.dtype(jnp.asarray(0).dtype).itemsize
    # The sine takes the place of the carry; the condition is one byte beside the carry.
    assert peak(fn, V) == F * B * 8 + count + 1


def test_the_dearest_branch_of_a_cond_counts() -> None:
    v = V | weights(wide=(8, 20), back=(20, 8))

    def fn(v: Any, x: Any) -> Any:
        y = x @ v["up"]
        y = jax.lax.cond(x.sum() > 0, lambda y: y, lambda y: y @ v["wide"] @ v["back"], y)
        return y @ v["down"]

    def by_hand(wide: int) -> int:
        index = np.dtype(np.int32).itemsize
        return index + F * B * max(8 + wide + 8, 8 + 8)

    assert peak(fn, v) == by_hand(20)
    assert peak(fn, v, {"wide": 10}) == by_hand(10)


def test_a_cache_is_updated_in_place() -> None:
    def fn(v: Any, x: Any) -> Any:
        cache = jnp.broadcast_to((x @ v["up"])[:, None], (B, 7, 8)) * 2.0
        cache = jax.lax.dynamic_update_slice(cache, (x @ v["up"])[:, None], (0, 3, 0))
        return cache

    assert peak(fn, V) == F * B * (7 * 8 + 8)


def test_peak_memory_plans_as_a_closed_form() -> None:
    graph = jp.trace(lambda v, x: jax.nn.relu(x @ v["up"]) @ v["down"], V, X)
    scores = {"up": np.arange(8.0)}
    keep = jp.select.budget(graph, scores, bounds={cost.peak_memory: jp.Absolute(F * B * 7)})
    assert keep["up"].sum() == 5
    problem = jp.plan.problem(graph, scores, bounds={cost.peak_memory: jp.Absolute(F * B * 7)})
    assert jp.plan.milp(problem, gap=0.0).widths == {"up": 5}


@pytest.mark.parametrize("scanned", [False, True])
def test_xla_holds_about_as_much(scanned: bool) -> None:
    v = weights(stem=(16, 64), layers=(2, 64, 256), back=(2, 256, 64))

    def fn(v: Any, x: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            return x + jax.nn.gelu(x @ w["layers"]) @ w["back"], None

        x, rest = x @ v["stem"], {name: v[name] for name in ("layers", "back")}
        if scanned:
            return jax.lax.scan(layer, x, rest)[0]
        for i in range(2):
            x, _ = layer(x, jax.tree.map(lambda leaf, i=i: leaf[i], rest))
        return x

    x = np.ones((128, 16), np.float32)
    memory = jax.jit(fn).lower(v, x).compile().memory_analysis()
    assert memory is not None
    exact = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert 0.6 < cost.peak_memory(jp.trace(fn, v, x)) / exact < 1.6
