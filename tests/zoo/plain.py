"""Plain convolutional networks with every normalization, activation and ending."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import IMAGES, LARGER, conv, ends, norm, pooled
from zoo.zoo import Network, linen


class Vgg(nn.Module):
    """Pixels and channels flattened together before the first Dense layer."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for features in (8, 12):
            x = nn.relu(norm(nn.Conv(features, (3, 3))(x), train))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(5, name="head")(x)


class ConvNeXt(nn.Module):
    """Depthwise 7x7, LayerNorm, an MLP and layer scale, twice.

    Source: Liu et al., A ConvNet for the 2020s, CVPR 2022, figure 4.
    """

    features: int = 8
    hidden: tuple[int, int] = (16, 16)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(self.features, (2, 2), 2, name="stem")(x))
        for index, hidden in enumerate(self.hidden):
            y = nn.Conv(
                self.features,
                (7, 7),
                feature_group_count=self.features,
                name=f"depthwise_{index}",
            )(x)
            y = nn.Dense(hidden, name=f"up_{index}")(nn.LayerNorm(name=f"norm_{index}")(y))
            y = nn.Dense(self.features, name=f"down_{index}")(nn.gelu(y))
            scale = self.param(f"scale_{index}", nn.initializers.ones, (self.features,))
            x = x + y * scale[None, None, None]
        return nn.Dense(5, name="head")(nn.LayerNorm(name="last_norm")(x.mean(axis=(1, 2))))


class WeightNorm(nn.Module):
    """Filters of a length that is learned."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        for features in (8, 12):
            layer = nn.Conv(features, (3, 3), name=f"layer_{features}")
            x = nn.relu(nn.WeightNorm(layer, name=f"norm_{features}")(x))
        return pooled(x)


class SpectralNorm(nn.Module):
    """Kernels divided by their largest singular value."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for features in (8, 12):
            layer = nn.Conv(features, (3, 3), name=f"layer_{features}")
            norm = nn.SpectralNorm(layer, name=f"norm_{features}")
            x = nn.relu(norm(x, update_stats=train))
        return pooled(x)


class Activations(nn.Module):
    """PReLU with one slope, with a slope per channel by hand, and GLU."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.PReLU()(nn.Conv(8, (3, 3))(x))
        x = nn.Conv(10, (3, 3))(x)
        slope = self.param("slope", nn.initializers.constant(0.2), (x.shape[-1],))
        x = jnp.where(x >= 0, x, x * slope[None, None, None])
        return pooled(nn.glu(nn.Conv(12, (3, 3))(x)))


class Normalized(nn.Module):
    """A convolution and a normalization, twice."""

    norms: tuple[nn.Module, ...]
    widths: tuple[int, ...] = (12, 12)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        for layer, width in zip(self.norms, self.widths, strict=True):
            x = nn.relu(layer(nn.Conv(width, (3, 3))(x)))
        return pooled(x)


def group_norms(widths: Mapping[str, int]) -> Normalized:
    """Returns a network of 4 groups of 3 channels and 2 groups of 6, or of other widths."""
    names = [f"Conv_{i}/kernel[3.{k}]" for i in (0, 1) for k in (0, 1)]
    sizes = [widths.get(name, n) for name, n in zip(names, (4, 3, 2, 6), strict=True)]
    norms = nn.GroupNorm(sizes[0]), nn.GroupNorm(num_groups=None, group_size=sizes[3])
    return Normalized(norms, (sizes[0] * sizes[1], sizes[2] * sizes[3]))


class NormalizedBranches(nn.Module):
    """Two convolutions side by side under one GroupNorm, whose groups lie across their border."""

    widths: tuple[int, int] = (8, 16)
    groups: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        branches = [nn.Conv(width, (3, 3))(x) for width in self.widths]
        x = nn.GroupNorm(self.groups)(jnp.concatenate(branches, axis=-1))
        return pooled(nn.relu(x))


def normalized_branches(widths: Mapping[str, int]) -> NormalizedBranches:
    """Returns groups of 2 + 4 channels; the border lies behind the first 2 of the second group."""
    first, last, others = (widths[f"Conv_{i}/kernel[3.{k}]"] for i, k in ((0, 0), (0, 1), (1, 1)))
    size = first + last
    return NormalizedBranches((size + first, last + others * size), 2 + others)


class StochasticDepth(nn.Module):
    """Residual branches that are dropped per example, and dropout before the head."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu(conv(8, (3, 3))(x))
        for _ in range(2):
            y = conv(8, (3, 3))(nn.relu(conv(12, (3, 3))(x)))
            x = x + nn.Dropout(self.rate, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        x = nn.Dropout(self.rate, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(5, name="head")(x)


NETWORKS: tuple[Network, ...] = (
    linen(
        "VGG",
        Vgg(),
        IMAGES,
        groups={"Conv_0/kernel": 8, "Conv_1/kernel": 12, "Dense_0/kernel": 16},
        frozen=ends() | {"spatial axis of a window": ["Dense_0/kernel 0"]},
    ),
    linen(
        "ConvNeXt",
        ConvNeXt(),
        IMAGES,
        native=lambda widths: ConvNeXt(
            widths["depthwise_0/kernel"], (widths["up_0/kernel"], widths["up_1/kernel"])
        ),
        elsewhere=LARGER,
        groups={"depthwise_0/kernel": 8, "up_0/kernel": 16, "up_1/kernel": 16},
        frozen=ends("stem/kernel 2"),
    ),
    linen(
        "WeightNorm",
        WeightNorm(),
        IMAGES,
        elsewhere=LARGER,
        groups={"layer_12/kernel": 12, "layer_8/kernel": 8},
        frozen=ends("layer_8/kernel 2"),
    ),
    linen(
        "SpectralNorm",
        SpectralNorm(),
        IMAGES,
        elsewhere=LARGER,
        groups={"layer_12/kernel[3]": 12, "layer_12/kernel[2]": 8},
        frozen=ends("layer_8/kernel 2"),
    ),
    linen(
        "activations",
        Activations(),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 8, "Conv_1/kernel": 10, "Conv_2/kernel": 6},
        frozen=ends(),
    ),
    linen(
        "GroupNorm",
        group_norms({}),
        IMAGES,
        native=group_norms,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel[3.0]": 4,
            "Conv_0/kernel[3.1]": 3,
            "Conv_1/kernel[3.0]": 2,
            "Conv_1/kernel[3.1]": 6,
        },
        frozen=ends(),
    ),
    linen(
        "GroupNorm across branches",
        NormalizedBranches(),
        IMAGES,
        native=normalized_branches,
        elsewhere=LARGER,
        groups={"Conv_0/kernel[3.0]": 2, "Conv_0/kernel[3.1]": 4, "Conv_1/kernel[3.1]": 2},
        frozen=ends("Conv_?/kernel 2"),
    ),
    linen(
        "InstanceNorm",
        Normalized((nn.InstanceNorm(), nn.InstanceNorm())),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 12, "Conv_1/kernel": 12},
        frozen=ends(),
    ),
    linen(
        "StochasticDepth",
        StochasticDepth(),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 8, "Conv_2/kernel": 12, "Conv_4/kernel": 12},
        frozen=ends(),
    ),
)
