"""Scores of how alike filters are, mixes of scores, reducers and normalizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import scores, stats
from jaxprune.errors import KeepError, ScoreError
from jaxprune.scores.clusters import clustered

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def network(v: Any, x: Any) -> Any:
    """Two layers make one stream; layers of a scan have their own channels."""

    def layer(x: Any, w: Any) -> Any:
        return x + jnp.tanh(x @ w["up"]) @ w["down"], None

    return jax.lax.scan(layer, x @ v["embed"], v["layers"])[0] @ v["head"]


V = {"embed": normal(3, 4), "layers": {"up": normal(2, 4, 5), "down": normal(2, 5, 4)}}
V["head"] = normal(4, 2)
GRAPH = jp.trace(network, V, normal(2, 3))
DOWN = V["layers"]["down"].transpose(2, 0, 1).reshape(4, 10)
UP = V["layers"]["up"].swapaxes(1, 2)


def pairwise(filters: np.ndarray, measure: Any) -> np.ndarray:
    return np.array([sum(measure(one - other) for other in filters) for one in filters])


def close(got: Any, expected: Any) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("layers", "stream", "hidden"), [(2, 4, 9), (9, 4, 5), (2, 9, 5)])
def test_large_kernels_are_summed_in_parts(monkeypatch, layers, stream, hidden) -> None:
    """The longest axis, which is divided, is that of the channels, of the layers, or another."""
    v = {
        "embed": normal(3, stream),
        "layers": {"up": normal(layers, stream, hidden), "down": normal(layers, hidden, stream)},
        "head": normal(stream, 2),
    }
    graph = jp.trace(network, v, normal(2, 3))
    gradients = jax.tree.map(np.cos, v)

    def found() -> list[Any]:
        return [scores.l1(graph, v), scores.l2(graph, v), scores.taylor(graph, v, gradients)]

    whole = found()
    for most in (1, 7, 50):
        monkeypatch.setattr("jaxprune.groups.members._AT_ONCE", most)
        for got, expected in zip(found(), whole, strict=True):
            close(got, expected)


def test_fpgm_in_all_norms() -> None:
    norms = {
        2: lambda d: np.sqrt((d**2).sum()),
        1: lambda d: abs(d).sum(),
        np.inf: lambda d: abs(d).max(),
    }
    for order, measure in norms.items():
        found = scores.fpgm(GRAPH, V, order=order)
        stream = pairwise(V["embed"].T, measure) + pairwise(DOWN, measure)
        close(found, {"embed": stream, "layers/up": [pairwise(f, measure) for f in UP]})
        close(jax.jit(lambda v, order=order: scores.fpgm(GRAPH, v, order=order))(V), found)
    assert scores.fpgm(GRAPH, V)["embed"].dtype == np.float32


def test_redundancy_keeps_one_of_each_cluster() -> None:
    one, two = normal(6), normal(6)
    filters = np.stack([one, two, one * 2, -one, two], 1)
    v = {"a": filters, "b": normal(5, 2)}
    graph = jp.trace(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"], v, normal(3, 6))
    cosines = scores.filter_similarity(graph, v)
    unit = filters / np.linalg.norm(filters, axis=0)
    np.testing.assert_allclose(cosines["a"], unit.T @ unit, rtol=1e-4, atol=1e-6)
    found = scores.redundancy(graph, cosines)["a"]
    assert (found < 1e-5).sum() == 3
    kept = np.flatnonzero(found > 1e-5)
    assert {int(kept[0]) in (0, 2, 3), int(kept[1]) in (1, 4)} == {True} or {
        int(kept[0]) in (1, 4),
        int(kept[1]) in (0, 2, 3),
    } == {True}
    np.testing.assert_allclose(sorted(found)[-2:], [1 - abs(unit[:, 0] @ unit[:, 1]), 1], rtol=1e-4)
    np.testing.assert_allclose(
        scores.filter_similarity(graph, v, centered=True)["a"], np.corrcoef(filters.T), rtol=1e-4
    )
    x = normal(50, 6)
    measured = stats.collect(graph, v, [x], {"c": stats.covariance()})["c"]
    correlations = {name: item.correlation for name, item in measured.items()}
    h = np.maximum(x @ filters, 0)
    np.testing.assert_allclose(correlations["a"], np.corrcoef(h.T), rtol=1e-3, atol=1e-5)
    by_data = scores.redundancy(graph, correlations)["a"]
    assert (by_data < 1e-4).sum() == 2  # minus one is another channel behind the ReLU
    stacked = scores.redundancy(GRAPH, scores.filter_similarity(GRAPH, V))
    assert stacked["layers/up"].shape == (2, 5)
    alone = scores.redundancy(graph, {"a": cosines["a"]})["a"]
    np.testing.assert_array_equal(alone, found)


def greedy(similarity: np.ndarray) -> np.ndarray:
    """The order of `redundancy`, found afresh among those left at every step."""
    left, found = list(range(len(similarity))), np.ones(len(similarity))
    while len(left) > 1:
        pairs = [(abs(similarity[i, j]), i, j) for i in left for j in left if i < j]
        size, one, two = max(pairs, key=lambda pair: pair[0])
        alike = {c: sum(abs(similarity[c, o]) for o in left if o != c) for c in (one, two)}
        gone = one if alike[one] > alike[two] else two
        found[gone] = 1 - size
        left.remove(gone)
    return found


def test_kmeans_keeps_one_of_each_cluster() -> None:
    """Planted clusters are found, of every layer its own; no step of the algorithm improves."""
    v = {**V, "layers": dict(V["layers"])}
    centers = np.eye(4, dtype=np.float32)[:, :3] * 9
    for layer, who in enumerate(([0, 1, 1, 2, 0], [2, 2, 1, 0, 0])):
        v["layers"]["up"] = v["layers"]["up"].copy()
        v["layers"]["up"][layer] = centers[:, who] + 0.1 * V["layers"]["up"][layer]
    found = scores.kmeans(GRAPH, v, {"layers/up": 3, "embed": 2})
    keep = jp.select.per_group(GRAPH, {"layers/up": found["layers/up"]}, prune_ratio=0.4)
    kept = keep["layers/up"]
    assert kept[0, [0, 4]].sum() == kept[0, [1, 2]].sum() == kept[0, 3] == 1
    assert kept[1, [0, 1]].sum() == kept[1, [3, 4]].sum() == kept[1, 2] == 1
    filters = RANDOM.normal(size=(30, 2))
    squares = ((filters[:, None] - filters[None]) ** 2).sum(-1)
    clusters, shares = clustered(squares, int((filters**2).sum(1).argmax()), 5)
    means = shares @ filters
    for k in range(5):
        np.testing.assert_allclose(means[k], filters[clusters == k].mean(0))
    nearest = [np.argmin(((one - means) ** 2).sum(1)) for one in filters]
    np.testing.assert_array_equal(clusters, nearest)
    with pytest.raises(KeepError, match="embed"):
        scores.kmeans(GRAPH, V, {"embed": 5})
    twins = {
        **V,
        "embed": V["embed"][:, [0, 0, 0, 0]],
        "layers": jax.tree.map(np.zeros_like, V["layers"]),
    }
    assert sorted(scores.kmeans(GRAPH, twins, {"embed": 2})["embed"]) == [0, 0, 0, 1]


def test_redundancy_step_by_step() -> None:
    v = {"a": np.ones((2, 12)), "b": np.ones((12, 1))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 2)))
    for seed in range(5):
        similarity = np.corrcoef(np.random.default_rng(seed).normal(size=(12, 6)))
        found = scores.redundancy(graph, {"a": similarity})["a"]
        np.testing.assert_allclose(found, greedy(similarity), rtol=1e-6)


def test_mixes() -> None:
    norms, distances = scores.l2(GRAPH, V), scores.fpgm(GRAPH, V)
    close(scores.composite([(norms, 2.0), (distances, -1.0)]),
          {name: 2 * norms[name] - distances[name] for name in norms})  # fmt: skip
    mixed = scores.quotas([(norms, 0.25), (distances, 0.5)])["embed"]
    order = [int(norms["embed"].argmin())]
    order += [int(c) for c in distances["embed"].argsort() if c not in order]
    assert np.argsort(mixed).tolist() == order
    third = {"embed": -distances["embed"]}
    three = scores.quotas([(norms, 0.25), (distances, 0.5), (third, 0.0)])["embed"]
    assert np.argsort(three).tolist() == [*order[:3], order[3]]
    early = scores.quotas([(norms, 0.25), (distances, 0.25), (third, 0.0)])["embed"]
    assert np.argsort(early).tolist() == [*order[:2], order[3], order[2]]
    layers = scores.quotas([(norms, 0.2), (distances, 0.2)])["layers/up"]
    np.testing.assert_array_equal(np.sort(layers, -1), [np.arange(1, 6, dtype=np.float32) / 5] * 2)
    np.testing.assert_array_equal(layers.argmin(-1), norms["layers/up"].argmin(-1))
    for bad, text in (
        ([], "expected pairs of scores and a number"),
        ([(norms, "much")], r"weights must be finite numbers, got \['much'\]"),
        ([(norms, 1.0), ({"embed": np.ones(3)}, 1.0)], "those of 'embed' have shapes"),
        ([(norms, 1.0), ({"z": np.ones(3)}, 1.0)], "the scores have no group in common"),
    ):
        with pytest.raises(ScoreError, match=text):
            scores.composite(bad)
    with pytest.raises(ScoreError, match=r"shares must be in \[0, 1\], and 1 at most together"):
        scores.quotas([(norms, 0.7), (distances, 0.7)])


def test_reducers_and_the_sentinel() -> None:
    first, last, product = (
        scores.l2(GRAPH, V, reduce=reduce)["embed"]
        for reduce in (scores.first, scores.last, np.prod)
    )
    members = {slot.path for slot in GRAPH.groups["embed"].slots if slot.role == "out"}
    assert members == {"embed", "layers/down"}
    embed, down = np.linalg.norm(V["embed"], axis=0), np.linalg.norm(DOWN, axis=1)
    for got, values in ((first, embed), (last, down), (product, embed * down)):
        np.testing.assert_allclose(got, values, rtol=1e-5)
    found = scores.normalized(scores.l2(GRAPH, V), by=scores.sentinel(0.4))["layers/up"]
    raw = scores.l2(GRAPH, V)["layers/up"]
    np.testing.assert_allclose(found, raw / np.sort(raw, -1)[:, 2:3], rtol=1e-5)
    with pytest.raises(ScoreError, match=r"share must be in \[0, 1\), got 1.0"):
        scores.sentinel(1.0)
