"""Statistics of convolutions, scans, grouped queries and shared weights: all readers."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import stats
from jaxprune.gates.sites import find_sites
from jaxprune.stats import At, readings

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def close(got: Any, expected: Any, rtol: float) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=rtol, atol=1e-5, err_msg=name)


LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolutions(v: Any, x: Any) -> Any:
    """Groups, strides, dilations of both sides and uneven padding; then pixels are flattened."""
    h = jax.nn.relu(lax.conv_general_dilated(x, v["a"], (1, 1), "SAME", dimension_numbers=LAYOUT))
    h = lax.conv_general_dilated(
        h, v["b"], (2, 1), ((1, 0), (2, 1)), (1, 2), (1, 2),
        dimension_numbers=LAYOUT, feature_group_count=2,
    )  # fmt: skip
    return jnp.tanh(h).reshape(len(h), -1) @ v["c"]


def patches_by_hand(h: np.ndarray) -> np.ndarray:
    """[groups, samples, channel, window] of the second convolution of `convolutions`."""
    wide = np.zeros((len(h), h.shape[1], 2 * h.shape[2] - 1, 4), np.float32)
    wide[:, :, ::2] = h
    wide = np.pad(wide, ((0, 0), (1, 0), (2, 1), (0, 0)))
    rows, columns = (wide.shape[1] - 3) // 2 + 1, wide.shape[2] - 2
    found = np.zeros((2, len(h), rows, columns, 2, 3, 2), np.float32)
    for g, r, c, i, j in itertools.product(
        range(2), range(rows), range(columns), range(3), range(2)
    ):
        found[g, :, r, c, :, i, j] = wide[:, 2 * r + i, c + 2 * j, 2 * g : 2 * g + 2]
    return found.reshape(2, len(h) * rows * columns, 2, 6)


def test_grams_of_patches() -> None:
    x = normal(3, 5, 4, 3)
    v = {"a": normal(3, 3, 3, 4), "b": normal(3, 2, 2, 6), "c": normal(2 * 8 * 6, 2)}
    graph = jp.trace(convolutions, v, x[:1])
    wanted = {"gram": stats.gram(), "added": stats.contributions(), "norm": stats.weighted_norm(),
              "drawn": stats.gram(positions=3)}  # fmt: skip
    found = stats.collect(graph, v, [x[:2], x[2:]], wanted)
    h = np.asarray(
        jax.nn.relu(lax.conv_general_dilated(x, v["a"], (1, 1), "SAME", dimension_numbers=LAYOUT))
    )
    patches = patches_by_hand(h)
    kernel = v["b"].transpose(2, 0, 1, 3).reshape(12, 2, 3).swapaxes(0, 1)  # [groups, K, O]
    flat = patches.reshape(2, -1, 12)
    (site,) = (site for site in find_sites(graph.walk) if "a[3.1]" in str(site.groups))
    reading = readings.Reading(channels=None, group="", site=site, op=site.op, operands=[h, v["b"]])
    some = np.array([7, 0, len(flat[0]) - 1])
    np.testing.assert_allclose(readings.read_matrix(reading, some), flat[:, some], rtol=1e-5)
    y = np.einsum("gsk,gko->gso", flat, kernel)
    (group,) = (name for name in found["gram"] if name.startswith("a[3.1]"))
    (gram,) = found["gram"][group]
    assert gram.count == flat.shape[1]
    for got, values in (
        (gram.xx, np.einsum("gsk,gsl->gkl", flat, flat)),
        (gram.xy, np.einsum("gsk,gso->gko", flat, y)),
        (gram.x, flat.sum(1)),
        (gram.y, y.sum(1)),
    ):
        np.testing.assert_allclose(got, values, rtol=1e-4, atol=1e-3)
    z = np.einsum("gscw,gcwo->cgso", patches, kernel.reshape(2, 2, 6, 3))
    expected = np.einsum("cgso,dgso->cd", z, z)
    np.testing.assert_allclose(found["added"][group], expected, rtol=1e-4)
    channels = h.reshape(-1, 2, 2)  # [entries, groups, channel]
    sizes = abs(kernel.reshape(2, 2, 6, 3)).sum((0, 2, 3))
    # Both groups of the kernel are one channel's weights; each has the root of its own squares.
    norms = np.sqrt((channels**2).mean(0))
    np.testing.assert_allclose(found["norm"][group], (norms * sizes).sum(0), rtol=1e-4)
    (drawn,) = found["drawn"][group]
    assert drawn.count == 9
    assert (np.linalg.eigvalsh(gram.xx - drawn.xx) > -1e-2).all()  # some of the same rows
    (last,) = found["gram"]["b[3.1]"]
    flat = np.tanh(y.reshape(2, 3, -1, 3).transpose(1, 2, 0, 3).reshape(3, -1))
    np.testing.assert_allclose(last.xx[0], flat.T @ flat, rtol=1e-3, atol=1e-4)
    z = flat.reshape(3, 16, 2, 3)[..., None] * v["c"].reshape(16, 2, 3, 2)  # [.., group, n, out]
    z = z.sum((1, 2))
    np.testing.assert_allclose(
        found["added"]["b[3.1]"], np.einsum("sio,sjo->ij", z, z), rtol=1e-3, atol=1e-3
    )


def decoder(v: Any, x: Any) -> Any:
    """Layers in a scan with grouped queries, weights that all steps share, and two readers."""

    def layer(x: Any, w: Any) -> Any:
        q = jnp.einsum("btd,dkge->btkge", x, w["q"])
        k, value = (jnp.einsum("btd,dke->btke", x, w[n]) for n in "kv")
        mixed = jax.nn.softmax(jnp.einsum("btkge,bske->bkgts", q, k))
        h = jnp.einsum("bkgts,bske->btkge", mixed, value)
        x = x + jnp.einsum("btkge,kged->btd", h, w["o"])
        return x + jax.nn.relu(x @ w["up"]) @ w["down"] + jnp.tanh(x @ v["shared"]) @ v[
            "back"
        ], None

    x, _ = lax.scan(layer, x @ v["embed"], v["layers"])
    return x @ v["head"] + (x**2) @ v["second"]


class Run(NamedTuple):
    """Statistics of the decoder over two batches, and what its contractions read."""

    graph: jp.ChannelGraph
    v: Any
    x: Any
    y: Any
    found: Any
    taps: Any


@pytest.fixture(scope="module")
def run() -> Run:
    layers = {
        "q": normal(3, 6, 2, 3, 4),
        "k": normal(3, 6, 2, 4),
        "v": normal(3, 6, 2, 4),
        "o": normal(3, 2, 3, 4, 6),
        "up": normal(3, 6, 5),
        "down": normal(3, 5, 6),
    }
    v = {
        "embed": normal(3, 6),
        "layers": layers,
        "head": normal(6, 2),
        "second": normal(6, 2),
        "shared": normal(6, 4),
        "back": normal(4, 6),
    }
    v = jax.tree.map(lambda w: w * 0.3, v)
    x, y = normal(4, 5, 3), normal(4, 5, 2)
    graph = jp.trace(decoder, v, x)
    found = stats.collect(
        graph,
        v,
        [(x[:2], y[:2]), (x[2:], y[2:])],
        {
            "sum": stats.sum(),
            "square": stats.sum_of_squares(),
            "norm": stats.activation_norm(),
            "moments": stats.moments(),
            "gates": stats.sum(at=At.GATES),
            "products": stats.sum(at=At.PRODUCTS),
            "each": stats.sum_of_squares(at=At.EXAMPLES),
            "gram": stats.gram(),
            "added": stats.contributions(),
            "covariance": stats.covariance(),
            "weighted": stats.weighted_norm(),
            "fluctuation": stats.weighted_variance(),
            "average": stats.activation_norm(examples=stats.average),
            "histogram": stats.histogram(bins=3, range=(0.0, 1.0)),
        },
        loss=lambda outputs, batch: ((outputs - batch[1]) ** 2).sum(),
    )
    taps = jax.jit(jp.tap(decoder, graph))(v, x)[1]
    return Run(graph, v, x, y, found, taps)


def test_scans_grouped_queries_shared_weights_and_several_readers(run: Run) -> None:
    graph, found, taps = run.graph, run.found, run.taps
    assert {name: graph.groups[name].layers for name in taps}
    stacked = {name for name in taps if graph.groups[name].layers}
    assert "layers/up" in stacked
    for name, arrays in taps.items():
        n = graph.groups[name].size
        own = [np.asarray(a) for a in arrays]
        if name in stacked:  # [layers, ..., n]
            values = [a.reshape(3, -1, n) for a in own]
        else:
            values = [a.reshape(-1, n) for a in own]
        together = np.concatenate(values, -2)
        np.testing.assert_allclose(found["sum"][name], together.sum(-2), rtol=1e-3, atol=1e-3)
        squares = (together**2).sum(-2)
        np.testing.assert_allclose(found["square"][name], squares, rtol=1e-3)
        variance = found["moments"][name].variance
        np.testing.assert_allclose(variance, together.var(-2), rtol=1e-3, atol=1e-5)


def test_gradients_by_gates_of_layers_and_groups_of_queries(run: Run) -> None:
    graph, v, x, y, found, _ = run
    close(found["products"], found["gates"], rtol=2e-3)
    apply = jp.gated(decoder, graph)

    def one(gates: Any, x: Any, y: Any) -> Any:
        return ((apply(v, gates, x[None]) - y[None]) ** 2).sum()

    slopes = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(jp.gates.unit(graph), x, y)
    close(found["each"], {name: (g**2).sum(0) for name, g in slopes.items()}, rtol=2e-3)
    close(found["gates"], {name: g.sum(0) for name, g in slopes.items()}, rtol=2e-3)


def test_grams_and_norms_of_every_layer(run: Run) -> None:
    found, taps, down = run.found, run.taps, run.v["layers"]["down"]
    (up,) = (np.asarray(a).reshape(3, -1, 5) for a in taps["layers/up"])
    (gram,) = found["gram"]["layers/up"]
    np.testing.assert_allclose(
        gram.xx[:, 0], np.einsum("lsi,lsj->lij", up, up), rtol=1e-3, atol=1e-4
    )
    z = up[..., None] * down[:, None]
    np.testing.assert_allclose(
        found["added"]["layers/up"], np.einsum("lsio,lsjo->lij", z, z), rtol=1e-3, atol=1e-4
    )
    for layer, values in enumerate(up):
        both = found["covariance"]["layers/up"]
        covariance = np.cov(values.T, bias=True)
        np.testing.assert_allclose(both.matrix[layer], covariance, rtol=1e-3, atol=1e-5)
        counts = [np.histogram(np.clip(c, 0, 1), 3, (0, 1))[0] for c in values.T]
        np.testing.assert_array_equal(found["histogram"]["layers/up"].counts[layer], counts)
    weights = abs(down).sum(2)
    norms = weights * np.sqrt((up**2).mean(1))
    np.testing.assert_allclose(found["weighted"]["layers/up"], norms, rtol=1e-3)
    fluctuations = (down**2).sum(2) * up.var(1)
    np.testing.assert_allclose(found["fluctuation"]["layers/up"], fluctuations, rtol=1e-3)
    mean = abs(up).mean(1)
    np.testing.assert_allclose(found["average"]["layers/up"], mean, rtol=1e-3)
    per_example = abs(np.asarray(taps["layers/up"][0])).reshape(3, 4, 5, 5).mean(2)
    norm = np.sqrt((per_example**2).sum(1))
    np.testing.assert_allclose(found["norm"]["layers/up"], norm, rtol=1e-3)


def test_a_loop_inside_of_every_layer() -> None:
    """Steps of the inner loop are added, layers of the outer one keep their own channels."""

    def fn(v: Any, x: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            h = lax.scan(
                lambda h, row: (jnp.tanh(h @ w["b"] + row @ w["a"]), None), x @ w["c"], rows
            )[0]
            return x + h @ w["d"], None

        rows = jnp.stack([x, 2 * x, 3 * x])
        return lax.scan(layer, x, v["layers"])[0] @ v["head"]

    sizes = {"a": (2, 4, 5), "b": (2, 5, 5), "c": (2, 4, 5), "d": (2, 5, 4)}
    layers = {name: normal(*size) * 0.3 for name, size in sizes.items()}
    v, x = {"layers": layers, "head": normal(4, 2)}, normal(6, 4)
    graph = jp.trace(fn, v, x)
    wanted = {"sum": stats.sum(), "norm": stats.activation_norm(), "max": stats.maximum()}
    found = stats.collect(graph, v, [x], wanted)
    (name,) = (name for name, group in graph.groups.items() if group.layers)
    read: list[list[np.ndarray]] = []
    now = x
    for i in range(2):
        h, steps = now @ layers["c"][i], []
        for row in (x, 2 * x, 3 * x):
            steps.append(h)
            h = np.tanh(h @ layers["b"][i] + row @ layers["a"][i])
        read.append([*steps, h])
        now = now + h @ layers["d"][i]
    np.testing.assert_allclose(found["sum"][name], np.sum(read, (1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["max"][name], np.max(np.abs(read), (1, 2)), rtol=1e-4)
    looped = np.sqrt((np.square(read)[:, :3]).sum((1, 2)))
    last = np.sqrt(np.square(read)[:, 3].sum(1))
    np.testing.assert_allclose(found["norm"][name], looped + last, rtol=1e-4)


def test_other_positions_are_drawn_of_every_example_and_batch() -> None:
    v, x = {"a": normal(2, 3), "b": normal(3, 1)}, normal(1, 50, 2)
    graph = jp.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], v, x)
    drawn = {"one": stats.gram(positions=1)}
    twice = stats.collect(graph, v, [x, x], drawn)["one"]["a"][0]
    beside = stats.collect(graph, v, [np.concatenate([x, x])], drawn)["one"]["a"][0]
    again = stats.collect(graph, v, [x, x], drawn)["one"]["a"][0]
    other = stats.collect(graph, v, [x, x], drawn, key=jax.random.key(1))["one"]["a"][0]
    for gram in (twice, beside):
        assert gram.count == 2
        assert np.linalg.matrix_rank(gram.xx[0], tol=1e-4) == 2
    np.testing.assert_array_equal(twice.xx, again.xx)
    assert (twice.xx != other.xx).any()


def test_blocks_beside_each_other_keep_their_own_channels() -> None:
    """Blocks that are mapped, not scanned: `layers=` says which axis counts them."""

    def fn(v: Any, x: Any) -> Any:
        def block(w: Any) -> Any:
            return jnp.tanh(x @ w["up"]) @ w["down"]

        return jax.vmap(block)(v["blocks"]).sum(0) @ v["head"]

    w, x = {"up": normal(3, 4, 5), "down": normal(3, 5, 4)}, normal(6, 4)
    v, name = {"blocks": w, "head": normal(4, 2)}, "blocks/up"
    graph = jp.trace(fn, v, x, layers={"blocks/*": 0})
    assert graph.groups[name].shape == (3, 5)
    wanted = {
        "sum": stats.sum(),
        "moments": stats.moments(),
        "norm": stats.activation_norm(),
        "weighted": stats.weighted_norm(),
        "added": stats.contributions(),
        "covariance": stats.covariance(),
        "products": stats.sum(at=At.PRODUCTS),
        "gates": stats.sum(at=At.GATES),
        "each": stats.sum(at=At.EXAMPLES),
    }
    found = stats.collect(graph, v, [x[:2], x[2:]], wanted, loss=lambda out, _: (out**2).sum())
    h = np.tanh(np.einsum("bd,ldf->lbf", x, w["up"]))
    np.testing.assert_allclose(found["sum"][name], h.sum(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["moments"][name].variance, h.var(1), rtol=1e-3)
    np.testing.assert_allclose(found["norm"][name], np.sqrt((h**2).sum(1)), rtol=1e-3)
    weights = abs(w["down"]).sum(2) * np.sqrt((h**2).mean(1))
    np.testing.assert_allclose(found["weighted"][name], weights, rtol=1e-3)
    z = h[..., None] * w["down"][:, None]
    np.testing.assert_allclose(
        found["added"][name], np.einsum("lsio,lsjo->lij", z, z), rtol=1e-3, atol=1e-3
    )
    covariance = [np.cov(layer.T, bias=True) for layer in h]
    np.testing.assert_allclose(found["covariance"][name].matrix, covariance, rtol=1e-3, atol=1e-4)
    assert jp.scores.thinet(graph, {name: found["added"][name]})[name].shape == (3, 5)
    slope = jax.grad(lambda m: (jp.gated(fn, graph)(v, {name: m}, x) ** 2).sum())(np.ones((3, 5)))
    for statistic in ("products", "gates", "each"):
        np.testing.assert_allclose(found[statistic][name], slope, rtol=1e-3, atol=1e-3)


def test_heads_are_the_same_in_two_spellings() -> None:
    """Where an einsum sums over heads and their dimensions, or a product over both as one axis."""

    def together(v: Any, x: Any) -> Any:
        h = jnp.tanh(jnp.einsum("btd,dhe->bthe", x, v["in"]) * v["scale"][None, None, :, None])
        return jnp.einsum("bthe,hed->btd", h, v["out"])

    def flat(v: Any, x: Any) -> Any:
        h = jnp.tanh(jnp.einsum("btd,dhe->bthe", x, v["in"]) * v["scale"][None, None, :, None])
        return h.reshape(*h.shape[:2], -1) @ v["out"].reshape(12, -1)

    v = {"in": normal(4, 3, 4), "out": normal(3, 4, 5), "scale": normal(3)}
    x = normal(2, 6, 4)
    h = np.tanh(np.einsum("btd,dhe->bthe", x, v["in"]) * v["scale"][:, None])
    norm = np.sqrt((abs(h).mean(1) ** 2).sum((0, 2)))
    weighted = (abs(v["out"]).sum(2) * np.sqrt((h**2).mean((0, 1)))).sum(1)
    fluctuation = ((v["out"] ** 2).sum(2) * h.var((0, 1))).sum(1)
    wanted = {
        "norm": stats.activation_norm(),
        "weighted": stats.weighted_norm(),
        "fluctuation": stats.weighted_variance(),
        "mean": stats.mean(),
    }
    for fn in (together, flat):
        graph = jp.trace(fn, v, x)
        (name,) = (name for name, group in graph.groups.items() if group.size == 3)
        found = stats.collect(graph, v, [x], wanted)
        np.testing.assert_allclose(found["norm"][name], norm, rtol=1e-4)
        np.testing.assert_allclose(found["weighted"][name], weighted, rtol=1e-4)
        np.testing.assert_allclose(found["fluctuation"][name], fluctuation, rtol=1e-4)
        np.testing.assert_allclose(found["mean"][name], h.mean((0, 1, 3)), rtol=1e-4, atol=1e-6)
