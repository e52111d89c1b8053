"""Networks of primitives that real models use: their groups, their laws, their MACs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse

import jaxprune as jp
from test_zoo_attention import check_narrow

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


V = {"a": normal(5, 8), "b": normal(8, 6), "c": normal(6, 3)}
X = normal(2, 4, 5)
TWO = {"a": 8, "b": 6}


def first(v: Any, x: Any) -> Any:
    return jnp.tanh(x @ v["a"])


def last(v: Any, h: Any) -> Any:
    return jnp.tanh(h) @ v["c"]


class Network(NamedTuple):
    """A function, its variables and inputs; the groups that it must have with their sizes.

    `macs` beside those of ordinary products. `inexact`: groups whose forward pass alone is equal.
    """

    fn: Callable[..., Any]
    groups: Mapping[str, int] = TWO
    variables: Mapping[str, Any] = V
    inputs: tuple[Any, ...] = (X,)
    macs: int | None = None
    uncounted: tuple[str, ...] = ()
    inexact: str = ""


def low_pass(v: Any, x: Any) -> Any:
    """The lower frequencies in time, as of a spectral filter."""
    spectrum = jnp.fft.rfft(first(v, x), axis=1) * jnp.array([1.0, 0.5, 0.0])[None, :, None]
    return last(v, jnp.fft.irfft(spectrum, n=4, axis=1) @ v["b"])


def fourier_operator(v: Any, x: Any) -> Any:
    """A complex kernel for each of the lower frequencies of an image, channels first."""
    h = first(v, x.reshape(1, 2, 4, 5)).transpose(0, 3, 1, 2)
    spectrum = jnp.fft.rfft2(h)[..., :2]
    mixed = jnp.einsum("ncyx,cdyx->ndyx", spectrum, v["k"])
    spectrum = jnp.pad(mixed, ((0, 0), (0, 0), (0, 0), (0, 1)))
    return last(v, jnp.fft.irfft2(spectrum, s=(2, 4)).transpose(0, 2, 3, 1))


def mixed_tokens(v: Any, x: Any) -> Any:
    """FNet: the transform mixes channels too, so that these are whole."""
    h = jnp.fft.fft(jnp.fft.fft(first(v, x), axis=-1), axis=-2).real
    return last(v, h @ v["b"])


SIZES = np.array([3, 0, 5], np.int32)
EXPERTS = {"up": normal(3, 5, 8), "down": normal(3, 8, 6), "c": V["c"]}


def experts(v: Any, x: Any) -> Any:
    """A mixture of experts, each of which has some of the tokens."""
    h = jnp.tanh(lax.ragged_dot(x.reshape(-1, 5), v["up"], SIZES))
    return last(v, lax.ragged_dot(h, v["down"], SIZES))


EDGES = np.array([[0, 1], [1, 0], [1, 2], [2, 3], [3, 0]])
GRAPH = (X[0], normal(5), EDGES)


def messages(v: Any, x: Any, weights: Any, edges: Any) -> Any:
    """A graph convolution: every node sums what its neighbors send, there and back."""
    matrix = sparse.BCOO((weights, edges), shape=(4, 4))
    h = jnp.tanh(matrix @ first(v, x))
    return last(v, matrix.T @ (h @ v["b"]))


def messages_of_constants(v: Any, x: Any) -> Any:
    matrix = sparse.BCOO((np.ones(5), EDGES), shape=(4, 4))
    return last(v, sparse.sparsify(jnp.matmul)(matrix, first(v, x)) @ v["b"])


def best_moments(v: Any, x: Any) -> Any:
    best, _ = lax.approx_max_k(first(v, x), 2, reduction_dimension=1)
    return last(v, best @ v["b"])


def patches(v: Any, x: Any) -> Any:
    """Every output is a channel at a place of the window."""
    layout = ("NHC", "HIO", "NHC")
    h = first(v, x)
    h = lax.conv_general_dilated_patches(h, (3,), (1,), "SAME", dimension_numbers=layout)
    return last(v, h @ v["w"])


def moments(v: Any, x: Any) -> Any:
    """A positive definite matrix of moments for every channel, float[N, C, T, T]."""
    h = first(v, x)
    return jnp.einsum("ntc,nsc->ncts", h, h) + jnp.diag(jnp.arange(1.0, 5))[None, None]


def factored(v: Any, x: Any) -> Any:
    return last(v, jnp.linalg.cholesky(moments(v, x)).sum(-1).swapaxes(1, 2) @ v["b"])


def spectra(v: Any, x: Any) -> Any:
    return last(v, jnp.linalg.eigh(moments(v, x))[0].swapaxes(1, 2) @ v["b"])


def whitened(v: Any, x: Any) -> Any:
    """Tokens without their correlations: one matrix for all channels."""
    m = jnp.einsum("ntc,nsc->nts", x, x) + jnp.eye(4)[None]
    root = jnp.linalg.cholesky(m)
    h = lax.linalg.triangular_solve(root, first(v, x), left_side=True, lower=True)
    return last(v, h @ v["b"])


FFT = ("fft", "fft")
K = normal(8, 6, 2, 2) + 1j * normal(8, 6, 2, 2)
NETWORKS = {
    "low pass": Network(low_pass, uncounted=FFT),
    "operator": Network(
        fourier_operator,
        {"a": 8, "k": 6},
        {"a": V["a"], "k": K, "c": V["c"]},
        macs=8 * 6 * 4,
        uncounted=FFT,
    ),
    "mixed tokens": Network(mixed_tokens, {"b": 6}, uncounted=FFT),
    "experts": Network(experts, {"down": 6, "up": 8}, EXPERTS, macs=8 * (5 * 8 + 8 * 6)),
    "messages": Network(messages, inputs=GRAPH, macs=4 * (5 * 8 + 8 * 6) + 5 * (8 + 6)),
    "messages of constants": Network(
        messages_of_constants, inputs=(X[0],), macs=4 * (5 * 8 + 8 * 6) + 5 * 8
    ),
    "best moments": Network(best_moments, macs=8 * 5 * 8 + 4 * 8 * 6),
    "patches": Network(
        patches,
        {"a": 8, "w": 6},
        {"a": V["a"], "w": normal(24, 6), "c": V["c"]},
        macs=8 * (5 * 8 + 3 * 3 * 8 + 24 * 6),
    ),
    "factored": Network(factored, uncounted=("cholesky",), inexact="a"),
    "spectra": Network(spectra, uncounted=("eigh",), inexact="a"),
    "whitened": Network(whitened, uncounted=("cholesky", "triangular_solve")),
}


@pytest.fixture(autouse=True)
def _double() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_its_groups_and_obeys_the_laws(name: str) -> None:
    net = NETWORKS[name]
    graph = jp.trace(net.fn, net.variables, *net.inputs)
    assert {group.name: group.size for group in graph.groups.values()} == net.groups
    assert "".join(group.name for group in graph.groups.values() if group.inexact) == net.inexact
    assert tuple(item.name for item in jp.cost.uncounted(graph)) == net.uncounted
    if net.macs is not None:
        rows = np.prod(jax.eval_shape(net.fn, net.variables, *net.inputs).shape[:-1])
        before = jp.cost.macs(graph) - int(rows) * 6 * 3
        before -= 8 * 5 * 8 if name == "operator" else 0
        assert before == net.macs
    keep = {n: np.arange(g.size) % 3 != 1 for n, g in graph.groups.items()}
    check_narrow(graph, net.variables, keep, *net.inputs)
    small = jp.slice(graph, net.variables, keep)
    narrowed = jp.trace(jp.narrow(net.fn, graph, keep), small, *net.inputs)
    assert jp.cost.macs(narrowed) == jp.cost.macs(graph, keep)


def test_a_matrix_of_zeros_is_inexact() -> None:
    """Eigenvalues of zero matrices are equal, and their vectors have no derivative."""

    def fn(v: Any, x: Any) -> Any:
        h = first(v, x)
        _, vectors = jnp.linalg.eigh(jnp.einsum("ntc,nsc->ncts", h, h))
        return last(v, jnp.abs(vectors[..., 0]).swapaxes(1, 2) @ v["b"])

    graph = jp.trace(fn, V, X)
    inexact = graph.groups["a"].inexact
    assert inexact is not None
    assert "eigh: its matrix may be singular or degenerate" in inexact
    masked = jp.mask(graph, V, {"a": np.arange(8) > 2})
    gradient = jax.grad(lambda v: fn(v, X).sum())(masked)
    assert not np.isfinite(gradient["a"]).all()
