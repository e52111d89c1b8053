"""Prefix widths: counts as the authors', monotone, one factor of every axis, and refused input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import slimmable
from jaxprune.errors import JaxpruneError, KeepError, PatternError


class Chain(nn.Module):
    """Dense layers of the given widths."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for features in self.widths:
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(3)(x)


class Grouped(nn.Module):
    """A grouped convolution, a channel shuffle, and a grouped convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(24, (1, 1))(x))
        x = nn.relu(nn.Conv(24, (1, 1), feature_group_count=3)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def traced(model, *shape):
    x = jnp.zeros(shape)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jp.trace(lambda v, x: model.apply(v, x), variables, x)


def chain(*widths):
    return traced(Chain(widths), 1, 5)


def counts(keep):
    return [int(kept.sum()) for kept in keep.values()]


def test_make_divisible_as_the_authors():
    # MobileNet v1 and v2 at the published multipliers, and the corner that v1 0.35 reaches.
    got = {
        (size, width): slimmable.make_divisible(size * width)
        for size in (16, 24, 32, 64, 96, 160, 320, 512, 1024)
        for width in (0.25, 0.35, 0.5, 0.75)
    }
    assert got[32, 0.35] == 16
    assert got[24, 0.35] == 8
    assert got[24, 0.75] == 24
    assert got[160, 0.35] == 56
    assert got[96, 0.25] == 24
    assert all(n % 8 == 0 and n >= 0.9 * size * width for (size, width), n in got.items())
    assert slimmable.make_divisible(2.0) == 9


def test_prefix_keeps_the_first_channels():
    keep = slimmable.prefix(chain(32, 48), 0.5)
    assert list(keep) == ["Dense_0/kernel", "Dense_1/kernel"]
    assert counts(keep) == [16, 24]
    assert all(kept[: kept.sum()].all() for kept in keep.values())


def test_the_multiplier_of_the_traced_network_is_the_whole_network():
    graph = chain(12, 17, 3)
    assert counts(slimmable.prefix(graph, 1.0)) == [12, 17, 3]
    assert counts(slimmable.prefix(graph, 1)) == [12, 17, 3]
    assert counts(slimmable.prefix(graph, 1.5, supernet=1.5)) == [12, 17, 3]


def test_a_supernet_is_wider_than_its_unit():
    graph = chain(96, 48)
    assert counts(slimmable.prefix(graph, 1.0, supernet=1.5)) == [64, 32]
    assert counts(slimmable.prefix(graph, 0.5, supernet=1.5)) == [32, 16]


@pytest.mark.parametrize("rounding", [{}, {"divisor": 1}, {"divisor": 3, "min_channels": 4}])
def test_widths_rise_with_the_multiplier(rounding):
    graph = chain(2, 7, 12, 31, 64)
    widths = [counts(slimmable.prefix(graph, w, **rounding)) for w in np.linspace(0.02, 1, 99)]
    assert (np.diff(widths, axis=0) >= 0).all()
    assert np.min(widths) >= 1
    assert widths[0] != widths[-1]


def test_floors_and_protection():
    graph = chain(32, 64)
    assert counts(slimmable.prefix(graph, 0.1, divisor=1, min_channels=5)) == [5, 6]
    assert counts(slimmable.prefix(graph, 0.01)) == [8, 8]
    assert list(slimmable.prefix(graph, 0.5, protect=["Dense_1/*"])) == ["Dense_0/kernel"]


def test_an_expansion_layer_keeps_multiples_of_its_ratio():
    graph = chain(16, 96)
    keep = slimmable.prefix(graph, 0.35, expansion={"Dense_1/*": 6})
    assert counts(keep) == [8, 48]  # 6 x 8, where 96 * 0.35 alone is 32
    assert counts(slimmable.prefix(graph, 0.35)) == [8, 32]


def test_ratios_and_counts_of_single_groups():
    graph = chain(32, 32, 32)
    keep = slimmable.prefix(graph, {"*": 0.5, "Dense_1/kernel": 5, "Dense_2/*": 1.0})
    assert counts(keep) == [16, 5, 32]
    assert counts(slimmable.prefix(graph, {"Dense_0/kernel": 1})) == [1]


def test_a_grouped_convolution_slims_inside_each_group():
    graph = traced(Grouped(), 1, 4, 4, 2)
    keep = slimmable.prefix(graph, 0.5, divisor=1)
    kernel = graph.variables["params/Conv_1/kernel"]
    kept = np.asarray(jp.spaces.select(kernel.axes[-1], keep)).reshape(3, -1)
    assert kept.shape == (3, 8)
    assert (kept == (np.arange(8) < 4)).all()
    model = jp.linen.resize(Grouped(), graph, keep)
    small = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    assert small["params"]["Conv_1"]["kernel"].shape == (1, 1, 4, 12)


def test_patterns_leave_out_what_is_protected_and_the_other_factors():
    graph = traced(Grouped(), 1, 4, 4, 2)
    same = slimmable.prefix(graph, 0.5, divisor=1)
    got = slimmable.prefix(graph, {"*": 0.5}, divisor=1)
    jax.tree.map(np.testing.assert_array_equal, got, same)
    other = next(name for name in graph.groups if name not in same)
    assert counts(slimmable.prefix(graph, {other: 2})) == [2]
    first = next(iter(same))
    assert first not in slimmable.prefix(graph, {"*": 0.5, first: 0.5}, protect=[first])


def test_attention_slims_its_heads_and_keeps_their_size():
    class Attend(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32)(x))

    graph = traced(Attend(), 1, 5, 8)
    keep = slimmable.prefix(graph, 0.5, divisor=1)
    small = jp.slice(graph, graph.abstract, keep)["params"]["MultiHeadDotProductAttention_0"]
    assert small["query"]["kernel"].shape == (8, 2, 8)


def test_a_kernel_used_in_both_directions_slims_on_both_axes():
    v = {"in": np.ones((2, 8)), "both": np.ones((8, 12)), "out": np.ones((8, 3))}
    graph = jp.trace(
        lambda v, x: x @ v["in"] @ v["both"] @ v["both"].T @ v["out"], v, np.ones((1, 2))
    )
    assert sorted(counts(slimmable.prefix(graph, 0.5, divisor=1))) == [4, 6]


def test_drawn_widths_lie_in_their_range():
    graph = chain(64, 64, 64)
    rng = np.random.default_rng(0)
    same = [counts(slimmable.uniform(graph, rng, 0.25, 1.0)) for _ in range(20)]
    assert all(len(set(row)) == 1 for row in same)
    assert len({row[0] for row in same}) > 3
    own = [counts(slimmable.nonuniform(graph, rng, 0.25, 1.0)) for _ in range(20)]
    assert any(len(set(row)) > 1 for row in own)
    assert 16 <= np.min(own) <= np.max(own) <= 64


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.5, 1.5), (0.8, 0.4)])
@pytest.mark.parametrize("draw", [slimmable.uniform, slimmable.nonuniform])
def test_a_range_that_cannot_be_drawn_from_is_refused(draw, ends):
    with pytest.raises(KeepError, match=r"widths cannot be drawn from(.|\n)*Fix: two multipliers"):
        draw(chain(32), np.random.default_rng(0), *ends)


def test_a_sandwich_is_the_extremes_and_others_between():
    graph = chain(64)
    grid = {w: slimmable.prefix(graph, w) for w in (0.5, 1.0, 0.25, 0.75, 0.625)}
    rng = np.random.default_rng(1)
    drawn = [list(slimmable.sandwich(grid, rng, 4)) for _ in range(20)]
    assert all(row[:2] == [1.0, 0.25] and len(set(row)) == 4 for row in drawn)
    assert {w for row in drawn for w in row[2:]} == {0.5, 0.75, 0.625}
    assert list(slimmable.sandwich(grid, rng, 2)) == [1.0, 0.25]
    assert len(slimmable.sandwich(grid, rng, 9)) == 5
    named = {"half": grid[0.5], "whole": {}, "quarter": grid[0.25]}  # absent groups are whole
    assert list(slimmable.sandwich(named, rng, 2)) == ["whole", "quarter"]


def test_outside_names_the_groups_out_of_range():
    graph = chain(64, 32)
    trained = [slimmable.prefix(graph, w) for w in (1.0, 0.5)]
    assert slimmable.outside_trained_range(graph, slimmable.prefix(graph, 0.75), trained) == []
    narrow = slimmable.prefix(graph, {"Dense_1/*": 0.25})
    assert slimmable.outside_trained_range(graph, narrow, trained) == ["Dense_1/kernel"]
    with pytest.raises(KeepError, match=r"no trained widths.\nFix: trained="):
        slimmable.outside_trained_range(graph, narrow, [])


@pytest.mark.parametrize("draw", ["uniform", "nonuniform", "prefix"])
def test_an_option_that_is_not_there_is_refused(draw):
    range_ = (0.5,) if draw == "prefix" else (np.random.default_rng(0), 0.5, 1.0)
    text = r"no option 'divsor'; near: \['divisor'\]\nFix: one of \['divisor', "
    with pytest.raises(JaxpruneError, match=text):
        getattr(slimmable, draw)(chain(64), *range_, divsor=2)


@pytest.mark.parametrize(
    ("width", "rounding", "text"),
    [
        (0.0, {}, r"width 0.0 would empty its groups(.|\n)*Fix: multipliers in \(0, 1.0\]"),
        ({"Dense_0/*": 0}, {}, r"width 0 of 'Dense_0/kernel' would empty its groups"),
        ({"Dense_0/*": 33}, {}, r"width 33 of 'Dense_0/kernel': the group has 32 channels"),
        (1.5, {}, r"above 1.0, the network that was traced(.|\n)*supernet=1.5"),
        ({"*": 2.5}, {"supernet": 2.0}, r"width 2.5 of 'Dense_0/kernel' is above 2.0"),
        (float("nan"), {}, "is not a multiplier"),
        ("half", {}, "width 'half' is not a multiplier"),
        (0.5, {"divisor": 0}, r"divisor must be an int, at least 1, got 0(.|\n)*Fix:"),
        (0.5, {"min_channels": 0.5}, "min_channels must be an int"),
        (0.5, {"expansion": {"*": 0}}, r"expansion of '\*' must be an int"),
        (0.5, {"supernet": 0}, "supernet must be a multiplier above 0"),
    ],
)
def test_bad_widths_are_refused(width, rounding, text):
    with pytest.raises(KeepError, match=text):
        slimmable.prefix(chain(32, 48), width, **rounding)


@pytest.mark.parametrize(
    ("width", "rounding", "text"),
    [
        ({"Conv*": 0.5}, {}, "width pattern 'Conv"),
        (0.5, {"protect": ["Conv*"]}, "protect pattern 'Conv"),
        (0.5, {"expansion": {"Conv*": 6}}, "expansion pattern 'Conv"),
    ],
)
def test_patterns_that_match_nothing_are_refused(width, rounding, text):
    with pytest.raises(PatternError, match=text):
        slimmable.prefix(chain(32, 48), width, **rounding)


@pytest.mark.parametrize("n", [1, 0, 2.5])
def test_a_sandwich_needs_two_widths(n):
    with pytest.raises(KeepError, match=r"sandwich: n=.*\nFix: n=4"):
        slimmable.sandwich({1.0: {}, 0.5: {}}, np.random.default_rng(0), n)
