"""Blocks of raw programs: convolutions in every layout, and windows."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

WINDOWS = {1: (8,), 2: (4, 2), 3: (2, 2, 2)}
"""The 8 places of the features as an image of 1, 2 or 3 axes."""


def laid_out(axes):
    return ["".join(order) for order in itertools.permutations(axes)]


def convolve(h, make, features, *, spatial=None, groups=1, **options):
    """Returns a convolution of the places of h in some layout, as [N, T, features]."""
    spatial = spatial or make.choice(1, 2, 3)
    places = "DHW"[:spatial]
    image = h.reshape(h.shape[0], *WINDOWS[spatial], h.shape[-1])
    lhs, out = (make.choice(*laid_out("NC" + places)) for _ in range(2))
    rhs = make.choice(*laid_out("OI" + places))
    shape = {"O": features, "I": h.shape[-1] // groups, **dict.fromkeys(places, 2)}
    scale = (2**spatial * shape["I"]) ** -0.5
    w = make.variable(*(shape[axis] for axis in rhs), scale=scale)
    image = jnp.transpose(image, [("N" + places + "C").index(axis) for axis in lhs])
    options = {"window_strides": (1,) * spatial, "padding": "SAME"} | options
    result = lax.conv_general_dilated(
        image, w, dimension_numbers=(lhs, rhs, out), feature_group_count=groups, **options
    )
    result = jnp.transpose(result, [out.index(axis) for axis in "N" + places + "C"])
    return as_places(result)


def as_places(image):
    """Returns an image as 8 places, cut or repeated."""
    flat = image.reshape(image.shape[0], -1, image.shape[-1])
    repeats = math.ceil(8 / flat.shape[1])
    return jnp.tile(flat, (1, repeats, 1))[:, :8]


def conv_1d(h, make):
    return make.activation(convolve(h, make, make.width(), spatial=1))


def conv_2d(h, make):
    return make.activation(convolve(h, make, make.width(), spatial=2))


def conv_3d(h, make):
    return make.activation(convolve(h, make, make.width(), spatial=3))


def conv_grouped(h, make):
    return make.activation(convolve(make.even(h), make, make.choice(4, 8), groups=2))


def conv_grouped_by_size(h, make):
    """As many groups as there are channels by two."""
    h = make.even(h)
    return convolve(h, make, make.choice(8, 16), groups=h.shape[-1] // 2)


def conv_depthwise(h, make):
    channels = h.shape[-1]
    return make.activation(convolve(h, make, channels, groups=channels))


def conv_multiplied(h, make):
    """Two outputs for each channel."""
    channels = h.shape[-1]
    return convolve(h, make, 2 * channels, groups=channels)


def conv_dilated(h, make):
    return convolve(h, make, make.width(), spatial=1, rhs_dilation=(make.choice(2, 3),))


def conv_strided(h, make):
    spatial = make.choice(1, 2)
    return convolve(h, make, make.width(), spatial=spatial, window_strides=(2,) * spatial)


def conv_lhs_dilated(h, make):
    spatial = make.choice(1, 2)
    return convolve(
        h,
        make,
        make.width(),
        spatial=spatial,
        lhs_dilation=(2,) * spatial,
        padding=((1, 1),) * spatial,
    )


def conv_uneven_pads(h, make):
    return convolve(
        h, make, make.width(), spatial=1, padding=(make.choice((2, 0), (3, -1), (-1, 2)),)
    )


def conv_transpose(h, make):
    """With `transpose_kernel` the kernel is that of the forward convolution."""
    transposed = make.choice(True, False)
    shape = (3, make.width(), h.shape[-1]) if transposed else (3, h.shape[-1], make.width())
    out = lax.conv_transpose(
        h,
        make.variable(*shape, scale=0.4),
        (2,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        transpose_kernel=transposed,
    )
    return out[:, :8] + out[:, 8:]


def conv_batch_groups(h, make):
    """Every example has its own filters."""
    w = make.variable(3, h.shape[-1], 6, scale=0.4)
    out = lax.conv_general_dilated(
        h,
        w,
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        batch_group_count=h.shape[0],
    )
    return jnp.tile(out, (h.shape[0], 1, 1))


def conv_batch_groups_2d(h, make):
    """As many groups of filters as examples, in some layout."""
    image = h.reshape(h.shape[0], 4, 2, h.shape[-1])
    lhs = make.choice("NHWC", "NCHW", "HWNC", "CHWN")
    image = jnp.transpose(image, ["NHWC".index(axis) for axis in lhs])
    w = make.variable(2, 2, h.shape[-1], h.shape[0] * make.choice(2, 3), scale=0.3)
    out = lax.conv_general_dilated(
        image,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=(lhs, "HWIO", "NHWC"),
        batch_group_count=h.shape[0],
    )
    return h.sum(-1, keepdims=True) * jnp.tanh(as_places(out))


def conv_local(h, make):
    """Filters of their own at every place."""
    w = make.variable(8, 3 * h.shape[-1], make.width())
    return lax.conv_general_dilated_local(
        h, w, (1,), "SAME", (3,), dimension_numbers=("NWC", "WIO", "NWC")
    )


def conv_transpose_2d(h, make):
    image = h.reshape(h.shape[0], 4, 2, h.shape[-1])
    w = make.variable(2, 3, h.shape[-1], make.width(), scale=0.3)
    out = lax.conv_transpose(image, w, (2, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return make.activation(as_places(out))


def conv_same_kernel_twice(h, make):
    w = make.variable(3, h.shape[-1], h.shape[-1], scale=0.3)
    for _ in range(2):
        h = jnp.tanh(
            lax.conv_general_dilated(h, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        )
    return h


def conv_filters_from_features(h, make):
    """The filters are activations."""
    filters = make.dense(h[0, :3], h.shape[-1])
    return lax.conv_general_dilated(
        h,
        filters[:, None],
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=h.shape[-1],
    )


def patches(h, make):
    out = lax.conv_general_dilated_patches(
        h, (2,), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return make.dense(out, make.width())


def convolved_signal(h, make):
    """jnp.convolve of every channel with one filter."""
    signal = jnp.moveaxis(h, 1, -1).reshape(-1, h.shape[1])
    w = make.variable(3)
    out = jax.vmap(lambda row: jnp.convolve(row, w, mode="same"))(signal)
    return jnp.moveaxis(out.reshape(h.shape[0], h.shape[-1], h.shape[1]), -1, 1)


def max_pool(h, make):
    out = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "SAME")
    return jnp.repeat(out, 2, axis=1)


def sum_pool(h, make):
    options = {"window_dilation": (1, 2, 1)} if make.choice(True, False) else {}
    return lax.reduce_window(h, 0.0, lax.add, (1, 3, 1), (1, 1, 1), "SAME", **options) / 3


def window_over_channels(h, make):
    """Local response normalization."""
    energy = lax.reduce_window(h * h, 0.0, lax.add, (1, 1, 3), (1, 1, 1), "SAME")
    return h / (1 + energy)
