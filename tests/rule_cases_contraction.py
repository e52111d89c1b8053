"""Cases of the contractions, in every layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from rule_networks import Case, F

IDENTITY = (0, 1)


def _dot(contract: Any, batch: Any = ((), ())):
    return lambda a, b: lax.dot_general(a, b, (contract, batch))


def _conv(layout: tuple[str, str, str], padding: Sequence = (), **options: Any):
    def conv(a: Any, b: Any) -> Any:
        n = a.ndim - 2
        strides = options.get("window_strides", (1,) * n)
        rest = {key: value for key, value in options.items() if key != "window_strides"}
        pads = padding or ((1, 1),) * n
        return lax.conv_general_dilated(a, b, strides, pads, dimension_numbers=layout, **rest)

    return conv


NHC = ("NHC", "HIO", "NHC")
NCH = ("NCH", "OIH", "NCH")
HNC = ("HNC", "IHO", "CNH")
NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")
CHWN = ("CHWN", "IHWO", "HWNC")
NDHWC = ("NDHWC", "DHWIO", "NDHWC")
PLAIN = "a . b, . b c -> a . c ! b"

PLANE_CASES = (
    Case(
        _conv(
            NHWC,
            ((1, 0), (2, 1)),
            feature_group_count=2,
            window_strides=(2, 1),
            rhs_dilation=(1, 2),
        ),
        (F(2, 3, 4, 4), F(2, 2, 2, 6)),
        "a . . b*c, . . c b*d -> a . . b*d ! c",
    ),
    Case(
        _conv(NHWC, feature_group_count=3, window_strides=(1, 2)),
        (F(2, 2, 3, 3), F(2, 2, 1, 6)),
        "a . . b, . . 1 b*c -> a . . b*c",
    ),
    Case(
        _conv(NCHW, ((2, 2), (2, 2)), feature_group_count=3, rhs_dilation=(2, 2)),
        (F(2, 3, 2, 2), F(3, 1, 2, 2)),
        "a b . ., b 1 . . -> a b . .",
    ),
    Case(
        _conv(NHWC, ((1, 2), (2, 1)), lhs_dilation=(2, 2)),
        (F(2, 2, 2, 3), F(3, 3, 3, 4)),
        "a . . b, . . b c -> a . . c ! b",
    ),
    Case(
        _conv(NHWC, lhs_dilation=(2, 1), feature_group_count=2),
        (F(2, 2, 2, 6), F(2, 2, 3, 4)),
        "a . . b*c, . . c b*d -> a . . b*d ! c",
    ),
    Case(
        _conv(NHWC, batch_group_count=2),
        (F(4, 2, 2, 3), F(2, 2, 3, 4)),
        ". . . a, . . a . -> . . . . ! a",
    ),
    Case(
        _conv(CHWN, batch_group_count=3),
        (F(2, 3, 3, 3), F(2, 2, 2, 3)),
        "a . . ., a . . . -> . . 1 . ! a",
    ),
    Case(
        _conv(NDHWC, feature_group_count=2),
        (F(2, 2, 1, 2, 4), F(1, 2, 1, 2, 6)),
        "a . 1 . b*c, 1 . 1 c b*d -> a . . . b*d ! c",
    ),
)
"""Groups, depthwise multipliers, strides, dilations and uneven padding in several dimensions."""


def _ragged(contract: Any, batch: Any, ragged: int, groups: tuple[int, ...], sizes: Any) -> Any:
    """A ragged product; `sizes` are those of the groups."""
    dims = lax.RaggedDotDimensionNumbers((contract, batch), (ragged,), groups)
    return lambda a, b: lax.ragged_dot_general(a, b, np.array(sizes, np.int32), dims)


RAGGED_CASES = (
    Case(
        _ragged(((1,), (1,)), ((), ()), 0, (0,), [1, 3]),
        (F(4, 3), F(2, 3, 3)),
        ". a, . a b, . -> . b ! a",
    ),
    Case(
        _ragged(((2,), (0,)), ((0,), (2,)), 1, (1,), [[1, 3], [2, 2]]),
        (F(2, 4, 3), F(3, 2, 2, 4)),
        ". . a, a . . b, . . -> . . b ! a",
    ),
    Case(
        _ragged(((2,), (0,)), ((0,), (2,)), 1, (1,), [1, 3]),
        (F(3, 4, 3), F(3, 2, 3, 4)),
        "a . b, b . a c, . -> a . c ! b",
    ),
    Case(
        _ragged(((0,), (0,)), ((), ()), 0, (), [1, 3]),
        (F(4, 3), F(4, 3)),
        ". a, . b, . -> . a b",
    ),
    Case(
        _ragged(((2,), (1,)), ((0,), (0,)), 0, (), [1, 2]),
        (F(3, 3, 4), F(3, 4, 3)),
        ". a b, . b c, . -> . a c ! b",
    ),
)
"""Groups of rows, of contracted rows and of products."""

CASES = {
    "ragged_dot_general": RAGGED_CASES,
    "dot_general": (
        Case(_dot(((1,), (0,))), (F(3, 3), F(3, 3)), "a b, b c -> a c ! b"),
        Case(_dot(((0,), (1,))), (F(3, 4), F(5, 3)), "a b, c a -> b c ! a"),
        Case(
            _dot(((2,), (1,)), ((0,), (0,))), (F(3, 3, 3), F(3, 3, 3)), "a b c, a c d -> a b d ! c"
        ),
        Case(_dot(((1, 2), (2, 0))), (F(3, 3, 4), F(4, 2, 3)), "a b c, c d b -> a d ! bc"),
        Case(_dot(((), ())), (F(3), F(3)), "a, b -> a b"),
        Case(_dot(((), ()), ((0,), (0,))), (F(3, 3), F(3, 3)), "a b, a c -> a b c"),
        Case(_dot(((0,), (0,))), (F(3), F(3)), "a, a -> () ! a"),
    ),
    "conv_general_dilated": (
        Case(_conv(NHC), (F(3, 4, 3), F(3, 3, 3)), PLAIN),
        Case(_conv(NCH), (F(2, 3, 4), F(3, 3, 3)), "a b ., c b . -> a c . ! b"),
        Case(_conv(HNC), (F(4, 2, 3), F(3, 2, 3)), ". a b, b . c -> c a . ! b"),
        Case(_conv(NHC, window_strides=(2,), rhs_dilation=(2,)), (F(2, 5, 3), F(2, 3, 4)), PLAIN),
        Case(_conv(NHC, lhs_dilation=(2,)), (F(2, 3, 3), F(3, 3, 4)), PLAIN),
        Case(_conv(NHC, ((-1, 2),)), (F(2, 4, 3), F(2, 3, 4)), PLAIN),
        Case(
            _conv(NHC, feature_group_count=3),
            (F(2, 4, 3), F(3, 1, 3)),
            "a . b, . 1 b -> a . b",
        ),
        Case(
            _conv(NHC, feature_group_count=3),
            (F(2, 4, 3), F(3, 1, 6)),
            "a . b, . 1 b*c -> a . b*c",
        ),
        Case(
            _conv(NHC, feature_group_count=2),
            (F(2, 4, 6), F(2, 3, 4)),
            "a . b*c, . c b*d -> a . b*d ! c",
        ),
        Case(
            _conv(NCH, feature_group_count=3),
            (F(2, 6, 4), F(9, 2, 2)),
            "a b*c ., b*d c . -> a b*d . ! c",
        ),
        Case(
            _conv(NHC, batch_group_count=2),
            (F(4, 4, 3), F(2, 3, 4)),
            ". . a, . a . -> . . . ! a",
        ),
        Case(_conv(NHWC), (F(2, 3, 3, 3), F(2, 2, 3, 3)), "a . . b, . . b c -> a . . c ! b"),
        Case(
            _conv(NDHWC),
            (F(2, 2, 2, 2, 3), F(1, 2, 1, 3, 4)),
            "a . . . b, 1 . 1 b c -> a . . . c ! b",
        ),
        Case(_conv(("NC", "IO", "NC")), (F(2, 3), F(3, 3)), "a b, b c -> a c ! b"),
        *PLANE_CASES,
    ),
}
