"""The law of stacked layers: a scan is reconstructed as the layers one after the other are."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.errors import JaxpruneError
from jaxprune.recover import Form, Order, absorb_constants, least_squares, obs

LAYERS, WIDTH, HIDDEN = 3, 5, 6
RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape) / max(shape[-2:-1], default=1) ** 0.5


X = [normal(40, 7, 4), normal(30, 7, 4)]
Variables = dict[str, Any]
Layer = Callable[[Any, Any, Any], Any]


class Network(NamedTuple):
    """A stream through layers, by a scan and one by one, with the same weights."""

    layer: Layer  # (stream, one layer of "blocks", what all share) -> stream
    shapes: dict[str, tuple[int, ...]]  # of one layer
    shared: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    depths: tuple[int, ...] = (LAYERS,)  # of nested scans, the outermost first
    reverse: bool = False
    last: bool = False  # the axis of layers is the last

    def variables(self) -> Variables:
        stacked = {name: normal(*self.depths, *shape) for name, shape in self.shapes.items()}
        if self.last:
            stacked = {name: np.moveaxis(w, 0, -1) for name, w in stacked.items()}
        shared = {name: normal(*shape) for name, shape in self.shared.items()}
        return {"in": normal(4, WIDTH), "blocks": stacked, "all": shared, "out": normal(WIDTH, 3)}

    def scanned(self, v: Variables, x: Any) -> Any:
        def through(y: Any, w: Any, depth: int) -> Any:
            if depth == len(self.depths):
                return self.layer(y, w, v["all"])

            def step(y: Any, w: Any) -> Any:
                return through(y, w, depth + 1), None

            return lax.scan(step, y, w, reverse=self.reverse)[0]

        blocks = v["blocks"]
        if self.last:
            blocks = {name: jnp.moveaxis(w, -1, 0) for name, w in blocks.items()}
        return through(x @ v["in"], blocks, 0) @ v["out"]

    def unrolled(self, v: Variables, x: Any) -> Any:
        y = x @ v["in"]
        for at in self.order():
            y = self.layer(y, v["blocks"][str(at)], v["all"])
        return y @ v["out"]

    def order(self) -> list[tuple[int, ...]]:
        places = list(np.ndindex(self.depths))
        return places[::-1] if self.reverse else places

    def apart(self, v: Variables) -> Variables:
        def of(w: Any, at: tuple[int, ...]) -> Any:
            return np.asarray(w)[..., *at] if self.last else np.asarray(w)[at]

        blocks = {
            str(at): {name: of(w, at) for name, w in v["blocks"].items()} for at in self.order()
        }
        return v | {"blocks": blocks}


def mlp(y: Any, w: Any, _: Any) -> Any:
    """With biases, and a shortcut."""
    hidden = jnp.tanh(y @ w["up"] + w["c"].reshape(1, 1, -1))
    return y + hidden @ w["down"] + w["d"].reshape(1, 1, -1)


def gated(y: Any, w: Any, shared: Any) -> Any:
    """Two kernels of a layer read one array, and one kernel is read in all layers."""
    y = y + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]
    return y + jnp.tanh(y @ shared["s"]) @ shared["t"]


def attention(y: Any, w: Any, _: Any) -> Any:
    """Heads with dimensions of their own."""
    q, k, u = (jnp.einsum("btd,dhe->bthe", y, w[name]) for name in "qku")
    mixed = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k))
    return y + jnp.einsum("bhts,bshe,hed->btd", mixed, u, w["o"])


def convolution(y: Any, w: Any, _: Any) -> Any:
    def conv(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=LAYOUT)

    return y + conv(jax.nn.relu(conv(y, w["up"])), w["down"])


def straight(y: Any, w: Any, _: Any) -> Any:
    """No shortcut: every layer reads what the layer before it writes."""
    return jnp.tanh(y @ w["w"] + w["b"].reshape(1, 1, -1))


LAYOUT = ("NWC", "WIO", "NWC")
DENSE = {"up": (WIDTH, HIDDEN), "c": (HIDDEN,), "down": (HIDDEN, WIDTH), "d": (WIDTH,)}
HEADS = {name: (WIDTH, 2, 3) for name in "qku"} | {"o": (2, 3, WIDTH)}
NETWORKS = {
    "mlp": Network(mlp, DENSE),
    "backward": Network(mlp, DENSE, reverse=True),
    "layers last": Network(mlp, DENSE, last=True),
    "nested": Network(mlp, DENSE, depths=(2, 3)),
    "gated": Network(
        gated,
        {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)},
        {"s": (WIDTH, 4), "t": (4, WIDTH)},
    ),
    "attention": Network(attention, HEADS),
    "convolution": Network(convolution, {"up": (3, WIDTH, HIDDEN), "down": (3, HIDDEN, WIDTH)}),
    "straight": Network(straight, {"w": (WIDTH, WIDTH), "b": (WIDTH,)}),
}


class Twins(NamedTuple):
    """Both networks with the same weights and the same keep."""

    net: Network
    v: Variables
    graph: Any
    keep: dict[str, np.ndarray]
    other: Any
    other_keep: dict[str, np.ndarray]

    def check(self, ours: Any, theirs: Any) -> None:
        jax.tree.map(close, self.net.apart(ours), theirs)
        x = np.concatenate(X)
        small = jax.jit(jp.narrow(self.net.scanned, self.graph, self.keep))
        twin = jax.jit(self.net.unrolled)
        close(
            small(jp.slice(self.graph, ours, self.keep), x),
            twin(jp.slice(self.other, theirs, self.other_keep), x),
        )


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.fixture
def _wide() -> Iterator[None]:
    """In float32 the rounding of one layer is amplified by the solutions of those behind it."""
    with jax.enable_x64(True):
        yield


wide = pytest.mark.usefixtures("_wide")


def random_keep(graph: Any, wanted: Callable[[Any], bool]) -> Any:
    rng = np.random.default_rng(1)
    keep = {}
    for name, group in graph.groups.items():
        order = rng.permuted(np.broadcast_to(np.arange(group.size), group.shape), axis=-1)
        if wanted(group):
            keep[name] = order < max(1, round(0.6 * group.size))
    return keep


def every(_: Any) -> bool:
    return True


def twins(net: Network, wanted: Callable[[Any], bool] = every) -> Twins:
    v = net.variables()
    graph = jp.trace(net.scanned, v, X[0])
    other = jp.trace(net.unrolled, net.apart(v), X[0])
    keep, theirs = random_keep(graph, wanted), {}
    assert keep
    front = 0 if net.last else len(net.depths)
    owners = {
        (slot.path, slot.axis - front * slot.path.startswith("blocks")): name
        for name in keep
        for slot in graph.groups[name].slots
    }
    for name, group in other.groups.items():
        kind, *rest = group.slots[0].path.split("/")
        path = f"{kind}/{rest[-1]}" if rest else kind
        owner = owners.get((path, group.slots[0].axis))
        if owner is not None:
            theirs[name] = keep[owner]
            if layers := graph.groups[owner].layers:
                at = rest[0].strip("(,)").split(", ")[net.depths.index(layers)]
                theirs[name] = keep[owner][int(at.strip(","))]
    return Twins(net, v, graph, keep, other, theirs)


@wide
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_scan_is_fitted_as_its_layers_one_by_one(name: str, order: Order) -> None:
    pair = twins(NETWORKS[name])
    ours = least_squares(pair.graph, pair.v, pair.keep, X, order=order)
    theirs = least_squares(pair.other, pair.net.apart(pair.v), pair.other_keep, X, order=order)
    pair.check(ours.variables, theirs.variables)
    fits = [[one for one in found.fits if one.kernel] for found in (ours, theirs)]
    for mine, other in zip(*fits, strict=True):
        close([mine.before, mine.after], [other.before, other.after])
        assert mine.method == other.method
    assert {one.why for one in ours.fits} == {one.why for one in theirs.fits}


@wide
@pytest.mark.parametrize("form", [Form.SCALE, Form.BIAS])
@pytest.mark.parametrize("stream", [True, False])
def test_factors_and_biases_of_one_kind_of_group(form: Form, stream: bool) -> None:
    """The stream that all layers share, and the hidden units that each has for itself."""
    pair = twins(NETWORKS["mlp"], lambda group: (group.layers is None) == stream)
    for order in Order:
        ours = least_squares(pair.graph, pair.v, pair.keep, X, form=form, order=order)
        theirs = least_squares(
            pair.other, pair.net.apart(pair.v), pair.other_keep, X, form=form, order=order
        )
        pair.check(ours.variables, theirs.variables)
        assert any(one.after < 0.9 * one.before for one in ours.fits)


@wide
@pytest.mark.parametrize("name", ["mlp", "gated", "nested", "convolution"])
def test_obs_chooses_in_every_layer_as_one_by_one(name: str) -> None:
    net = NETWORKS[name]
    pair = twins(net)
    widths = {name: int(np.reshape(k, (-1, k.shape[-1]))[0].sum()) for name, k in pair.keep.items()}
    other_widths = {name: int(kept.sum()) for name, kept in pair.other_keep.items()}
    if len(net.depths) > 1:  # the layers of one scan share channels along the other
        widths = {name: n for name, n in widths.items() if pair.graph.groups[name].layers is None}
        other_widths = {
            name: n for name, n in other_widths.items() if pair.other.groups[name].size == WIDTH
        }
    ours = obs(pair.graph, pair.v, widths, X)
    theirs = obs(pair.other, net.apart(pair.v), other_widths, X)
    jax.tree.map(close, net.apart(ours.variables), theirs.variables)
    assert sum(map(np.size, ours.costs.values())) == sum(map(np.size, theirs.costs.values()))
    np.testing.assert_allclose(
        np.sort(np.concatenate([c.ravel() for c in ours.costs.values()])),
        np.sort(np.concatenate(list(theirs.costs.values()))),
        rtol=1e-9,
    )
    for name, kept in ours.keep.items():
        assert kept.shape == pair.graph.groups[name].shape
        assert (kept.sum(-1) == widths[name]).all()
    assert all(one.after < one.before for one in ours.fits)


class Stack(nn.Module):
    """Layers of Flax behind `nn.scan`, recomputed in the backward pass."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dense(WIDTH)(x)
        block = nn.scan(nn.remat(Block), {"params": 1}, split_rngs={"params": True}, length=LAYERS)
        x, _ = block(name="blocks")(x, None)
        return nn.Dense(3)(x)


class Block(nn.Module):
    """A normed branch beside a shortcut."""

    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        h = nn.Dense(HIDDEN, name="up")(nn.RMSNorm(use_scale=False)(x))
        return x + nn.Dense(WIDTH, name="down")(nn.gelu(h)), None


@pytest.mark.parametrize("order", Order)
def test_linearly_dependent_channels_of_flax_layers_cost_nothing(order: Order) -> None:
    """The hidden units that go are copies, in every layer of others."""
    model = Stack()
    batches = [x.astype(np.float32) for x in X]
    v = jax.device_get(model.init(jax.random.key(0), batches[0]))
    keep = np.array([np.roll(np.arange(HIDDEN) < 3, i) for i in range(LAYERS)])
    up = v["params"]["blocks"]["up"]
    up["kernel"], up["bias"] = np.array(up["kernel"]), np.float32(normal(HIDDEN, LAYERS))
    assert up["kernel"].shape == (WIDTH, LAYERS, HIDDEN)
    for layer, kept in enumerate(keep):
        up["kernel"][:, layer, ~kept] = up["kernel"][:, layer, kept]
        up["bias"][~kept, layer] = up["bias"][kept, layer]
    graph = jp.linen.trace(model, v, batches[0])
    keeps = {"blocks/up/kernel": keep}
    found = least_squares(graph, v, keeps, batches, ridge=0, order=order)
    dense = np.asarray(model.apply(v, batches[0]))

    def error(variables: Any) -> float:
        small = jp.narrow(graph.fn, graph, keeps)(jp.slice(graph, variables, keeps), batches[0])
        return float(abs(np.asarray(small) - dense).max() / abs(dense).max())

    assert error(found.variables) <= 1e-5 < 0.1 < error(v)
    assert [one.reader[-7:] for one in found.fits] == ["layer 0", "layer 1", "layer 2"]


@wide
def test_constants_of_layers_move_into_their_biases() -> None:
    """Hidden units that are constant, others in every layer; nothing is lost without them."""
    net = NETWORKS["mlp"]
    pair = twins(net, lambda group: group.layers is not None)
    (name,) = pair.keep
    v = pair.v
    v["blocks"]["up"] = v["blocks"]["up"] * pair.keep[name][:, None, :]
    absorbed = absorb_constants(pair.graph, v, pair.keep)
    assert absorbed.outcomes
    assert all(outcome.into == "blocks/d" for outcome in absorbed.outcomes), absorbed.outcomes
    small = jp.narrow(net.scanned, pair.graph, pair.keep)
    x = X[0]
    got = small(jp.slice(pair.graph, absorbed.variables, pair.keep), x)
    close(got, net.scanned(v, x))
    assert abs(small(jp.slice(pair.graph, v, pair.keep), x) - net.scanned(v, x)).max() > 0.1


def test_what_steps_over_no_layers_stays_and_says_why() -> None:
    """A loop over time, layers inside of a branch, and layers side by side."""

    def over_time(v: Any, x: Any) -> Any:
        def step(c: Any, x: Any) -> Any:
            return c + jnp.tanh(x @ v["a"]) @ v["b"], None

        return lax.scan(step, jnp.zeros((len(x), 3)), jnp.moveaxis(x, 1, 0))[0]

    def loop(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["a"])
        return lax.while_loop(lambda c: c.sum() < 0, lambda c: c + h @ v["b"], x[..., :3])

    def branch(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["a"])
        return lax.cond(x.sum() > 0, lambda: h @ v["b"], lambda: x[..., :3])

    v = {"a": normal(4, 6), "b": normal(6, 3)}
    whys = {over_time: "whose steps share", loop: "steps is not known", branch: "may not come"}
    for fn, why in whys.items():
        graph = jp.trace(fn, v, X[0])
        (fit,) = least_squares(graph, v, {"a": np.arange(6) < 4}, X).fits
        assert fit.why is not None
        assert "it is inside of a" in fit.why
        assert why in fit.why
        with pytest.raises(JaxpruneError, match=why):
            obs(graph, v, {"a": 4}, X)
    stacked = {"a": normal(2, 4, 6), "b": normal(2, 6, 3)}

    def beside(v: Any, x: Any) -> Any:
        return jax.vmap(lambda w: jnp.tanh(x @ w["a"]) @ w["b"])(v).sum(0)

    graph = jp.trace(beside, stacked, X[0], layers={"*": 0})
    assert graph.groups["a"].layers == 2
    with pytest.raises(JaxpruneError, match="every layer of a stack has channels of its own"):
        obs(graph, stacked, {"a": 4}, X)
