"""Experts behind a router: one group, whatever way tokens are sent to them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from expert_networks import DISPATCHES, EXPERTS, ROUTINGS, network, variables

PAIRS = [
    pytest.param(
        routing, dispatch, marks=[] if few else [pytest.mark.slow], id=f"{routing}-{dispatch}"
    )
    for routing in ROUTINGS
    for dispatch in DISPATCHES
    for few in [routing == "mixtral" or dispatch == "sort"]
]
SLOTS = {("router", 1), ("up", 0), ("down", 0)}


def experts(graph: jp.ChannelGraph) -> jp.Group:
    """The group of the experts."""
    return next(
        group
        for group in graph.groups.values()
        if ("router", 1) in {(slot.path, slot.axis) for slot in group.slots}
    )


def by_hand(v: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """The variables of a network that has the kept experts only."""
    return v | {"router": v["router"][:, kept], "up": v["up"][kept], "down": v["down"][kept]}


def value_and_gradients(fn: Any, v: Any, *rest: Any) -> Any:
    return jax.value_and_grad(lambda v: jnp.sum(jnp.sin(fn(v, *rest))))(v)


@pytest.mark.parametrize(("routing", "dispatch"), PAIRS)
def test_experts_are_one_group_and_equal_fewer_experts_by_hand(routing: str, dispatch: str) -> None:
    fn, (v, x) = network(routing, dispatch), variables()
    graph = jp.trace(fn, v, x)
    group = experts(graph)
    assert {(slot.path, slot.axis) for slot in group.slots} == SLOTS
    assert group.inexact is not None
    seed = len(routing) + len(dispatch)
    kept = np.random.default_rng(seed).permutation(EXPERTS) < 2 + seed % 3
    keep = {group.name: kept}
    small = jp.slice(graph, v, keep)
    narrow, resized = jp.narrow(fn, graph, keep), jp.resize(fn, graph, keep)

    def results(v: Any, small: Any, hand: Any) -> Any:
        others = [value_and_gradients(run, small, x) for run in (narrow, resized)]
        masked = value_and_gradients(jp.masked(fn, graph), v, keep, x)
        return value_and_gradients(fn, hand, x), *others, masked

    hand, *others, masked = jax.jit(results)(v, small, by_hand(v, kept))
    for other in (*others, (masked[0], jp.slice(graph, masked[1], keep))):
        jax.tree.map(check_close, other, hand)
    for path, axis in SLOTS:
        assert not np.compress(~kept, masked[1][path], axis).any()


def check_close(found: Any, expected: Any) -> None:
    """Checks an array relative to its largest entry."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_channels_and_experts_are_pruned_together_by_one_program_for_all_keeps() -> None:
    fn, (v, x) = network("softmax first", "sort"), variables()
    graph = jp.trace(fn, v, x)
    run = jax.jit(lambda keep: jp.masked(fn, graph)(v, keep, x))
    for seed in range(3):
        random = np.random.default_rng(seed)
        keep = {
            n: random.permutation(g.size) < max(2, g.size // 2) for n, g in graph.groups.items()
        }
        expected = jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), x)
        np.testing.assert_allclose(run(keep), expected, rtol=2e-5, atol=2e-5)
    assert run._cache_size() == 1


def test_never_fewer_experts_than_a_token_has() -> None:
    fn, (v, x) = network("mixtral", "take"), variables()
    graph = jp.trace(fn, v, x)
    name = experts(graph).name
    assert experts(graph).least == 2
    few = {name: np.arange(EXPERTS) < 1}
    for refused in (
        lambda: jp.slice(graph, v, few),
        lambda: jp.narrow(fn, graph, few),
        lambda: jp.mask(graph, v, few),
        lambda: jp.widths(graph, {name: 1}),
    ):
        with pytest.raises(jp.errors.KeepError, match=r"The network chooses 2 of them \(top_k\)"):
            refused()
    scores = {name: np.arange(EXPERTS, dtype=np.float32)}
    keep = jp.select.per_group(graph, scores, prune_ratio=0.99)
    assert keep[name].tolist() == [False] * 4 + [True] * 2


def test_it_is_said_that_masks_of_variables_are_not_enough() -> None:
    fn, (v, x) = network("switch", "one_hot"), variables()
    graph = jp.trace(fn, v, x)
    name = experts(graph).name
    assert next(line for line in str(graph).splitlines() if name in line).endswith("inexact")
    assert "a zero is not neutral" in str(jp.explain(graph, name))
    keep = {name: np.arange(EXPERTS) < 3}
    checked = jp.verify(graph, fn, keep, v, x, resized=jp.resize(fn, graph, keep))
    assert checked.ok
    assert checked.groups[name].startswith("inexact: ")
    assert checked.resized == "exact"


def test_sizes_that_no_routing_makes_keep_their_groups() -> None:
    def fn(v: Any, x: Any) -> Any:
        sizes = jnp.full((EXPERTS,), 2, jnp.int32)
        return jax.lax.ragged_dot(x @ v["stem"], v["up"], sizes)

    v, _ = variables()
    graph = jp.trace(fn, v, np.ones((12, 3), np.float32))
    assert all(group.size != EXPERTS for group in graph.groups.values())


def test_an_axis_of_which_a_loop_takes_the_experts_says_so() -> None:
    def fn(v: Any, x: Any) -> Any:
        _, chosen = jax.lax.top_k(x @ v["router"], 2)
        sent = jax.nn.one_hot(chosen, EXPERTS).sum(-2)
        every = [jax.nn.relu(x @ v["up"][i]) @ v["down"][i] for i in range(EXPERTS)]
        return jnp.einsum("te,etd->td", sent, jnp.stack(every))

    v, x = variables()
    x = x @ v["stem"]
    graph = jp.trace(fn, v, x)
    text = jp.explain(graph)
    assert "2 axes: the function takes its entries one by one, as a Python loop does" in text
    assert "down axis 0, up axis 0" in text
    assert "axis 0, size 6: cannot be pruned: the function takes" in jp.explain(graph, "up")
    assert [item.size for item in graph.frozen if item.why.text == "taken one by one"] == [6] * 2


def test_no_fewer_experts_stay_than_are_chosen_where_counts_make_positions() -> None:
    fn, (v, x) = network("mixtral", "repeated"), variables()
    graph = jp.trace(fn, v, x)
    group = experts(graph)
    assert group.least == 2
    with pytest.raises(jp.errors.KeepError, match="2"):
        jp.slice(graph, v, {group.name: np.arange(EXPERTS) < 1})


def test_counts_that_are_used_otherwise_make_no_positions() -> None:
    """Positions by other formulas, or used as numbers, freeze the axis."""
    sizes = jnp.array([2, 0, 3])
    v, x = {"w": np.ones((4, 3), np.float32), "out": np.ones((3, 2), np.float32)}, np.ones((5, 4))

    def counted(change: Any) -> Any:
        def fn(v: Any, x: Any) -> Any:
            sent = jax.nn.one_hot(jnp.argmax(x @ v["w"], -1), 3, dtype=int).sum(0)
            return jnp.take(v["out"], change(sent), axis=0)

        return fn

    owner = lambda n: jnp.repeat(jnp.arange(3), n, total_repeat_length=5)  # noqa: E731
    assert owner(sizes).tolist() == [0, 0, 2, 2, 2]
    groups = {
        name: set(jp.trace(counted(change), v, x).groups)
        for name, change in {
            "owner": owner,
            "next": lambda n: (owner(n) + 1) % 3,
            "left": lambda n: jnp.searchsorted(jnp.cumsum(n), jnp.arange(5)),
        }.items()
    }
    assert groups == {"owner": {"w"}, "next": set(), "left": set()}
