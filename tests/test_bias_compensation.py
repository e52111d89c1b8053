"""FLAP's cheap form: what a bias, and the score, take of the data are numbers of each channel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import stats
from jaxprune.recover import Form, Order
from jaxprune.recover.fits import bias, error
from jaxprune.recover.fitting import Fitting
from jaxprune.recover.measuring import draw_of
from tests.test_reconstruction import IMAGES, LAYOUTS, SHAPES, random_keep, variables_like

V, KEEP = variables_like(SHAPES, 1), random_keep(2)


def work(form: Form, positions: int | None = None) -> Fitting:
    draw = draw_of(positions, None)
    given = IMAGES, form, 0.01, Order.AT_ONCE, None, None, draw
    return Fitting(LAYOUTS, V, KEEP, *given)


@pytest.mark.parametrize("positions", [None, 5])
def test_it_is_what_the_moments_of_all_pairs_give(positions: int | None) -> None:
    """Convolutions with windows and groups, heads, and a layer that is read twice."""
    whole, cheap = work(Form.KERNEL, positions), work(Form.BIAS, positions)
    every = list(range(len(whole.readers)))
    pairs = [w.measuring.collect(IMAGES, w.variables, None, every) for w in (whole, cheap)]
    for i, (full, short) in enumerate(zip(*pairs, strict=True)):
        reader = whole.readers[i]
        for b, block in enumerate(reader.blocks(np.asarray(whole.leaves[reader.path]))):
            kernel = np.where(block.kept[:, None], block.kernel, 0)
            all_pairs, none = (type(full)(*(part[b] for part in m)) for m in (full, short))
            mean = bias(all_pairs, kernel)
            np.testing.assert_allclose(none.y, mean, rtol=1e-4, atol=1e-5)
            for shift in (mean, 0 * mean):
                wanted = error(all_pairs, kernel, shift, block.written)
                got = error(none, kernel[:0], shift, block.written)
                np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(none.size, all_pairs.size)


def largest(tree: Any) -> int:
    return max(leaf.size for leaf in jax.tree.leaves(tree))


def test_no_number_of_two_channels_is_kept() -> None:
    """Nor of a channel and an output, where a Gram would hold both."""
    n, outputs = 50, 3
    v = {"a": np.ones((4, n), np.float32), "b": np.ones((n, outputs), np.float32)}
    x = np.ones((5, 4), np.float32)
    graph = jp.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], v, x)
    keep = {"a": np.arange(n) < 20}
    for form, most in ((Form.BIAS, outputs), (Form.KERNEL, n * n)):
        draw = draw_of(None, None)
        one = Fitting(graph, v, keep, [x], form, 0.01, Order.AT_ONCE, None, None, draw)
        shapes = jax.eval_shape(one.measuring.measure, v, None, x, np.ones(1, bool), 1)
        assert largest(shapes) == most
    for statistic, most in ((stats.weighted_variance(), n), (stats.gram(), n * n)):
        tools = stats.collector(graph, {"": statistic})
        assert largest(tools.init(v, x).states) == most
