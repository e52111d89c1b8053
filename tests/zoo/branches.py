"""Networks whose features branch and meet again: concatenations, pyramids, skips."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import IMAGES, LARGER, conv, ends, norm, pooled
from zoo.zoo import Network, linen, normal


class Inception(nn.Module):
    """Two blocks of four branches side by side."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        def layer(x: jax.Array, features: int, size: int = 1) -> jax.Array:
            return nn.relu(norm(conv(features, (size, size))(x), train))

        x = layer(x, 8, 3)
        for _ in range(2):
            pool = nn.max_pool(x, (3, 3), padding="SAME")
            branches = (layer(x, 4), layer(layer(x, 6), 6, 3), layer(pool, 3))
            x = jnp.concatenate(branches, axis=-1)
        return pooled(x)


class DenseNet(nn.Module):
    """Two dense blocks with bottlenecks and a transition between them."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = conv(8, (3, 3))(x)
        for block in range(2):
            for _ in range(2):
                y = conv(8, (1, 1))(nn.relu(norm(x, train)))
                y = conv(4, (3, 3))(nn.relu(norm(y, train)))
                x = jnp.concatenate([x, y], axis=-1)
            if block == 0:
                x = conv(8, (1, 1))(nn.relu(norm(x, train)))
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return pooled(nn.relu(norm(x, train)))


class UNet(nn.Module):
    """One step down and up again: transposed convolution, skip, one class per pixel."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        skip = nn.relu(norm(conv(8, (3, 3))(x), train))
        y = nn.max_pool(skip, (2, 2), strides=(2, 2))
        y = nn.relu(norm(conv(12, (3, 3))(y), train))
        y = nn.relu(nn.ConvTranspose(6, (2, 2), strides=(2, 2))(y))
        y = nn.relu(norm(conv(8, (3, 3))(jnp.concatenate([skip, y], axis=-1)), train))
        return nn.Conv(5, (1, 1), name="head")(y)


class Pyramid(nn.Module):
    """A feature pyramid: lateral 1x1 convolutions, sums with what is resized from above."""

    method: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        del train
        levels = []
        for features in (8, 10, 12):
            x = nn.relu(nn.Conv(features, (3, 3), 2)(x))
            levels.append(x)
        top, found = None, {}
        for index, level in reversed(list(enumerate(levels))):
            lateral = nn.Conv(8, (1, 1), name=f"lateral_{index}")(level)
            if top is not None:
                lateral = lateral + jax.image.resize(top, lateral.shape, self.method)
            top = lateral
            found[f"level_{index}"] = nn.Conv(5, (3, 3), name=f"out_{index}")(top)
        return found


class SuperResolution(nn.Module):
    """Depth to space: a reshape, a transpose and a reshape, then a last convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.Conv(24, (3, 3))(x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
        x = nn.relu(x.reshape(batch, 2 * height, 2 * width, channels // 4))
        return nn.Conv(3, (3, 3), name="head")(x)


class DeepLab(nn.Module):
    """Dilated convolutions beside the mean of the image, which is broadcast back."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu(norm(conv(8, (3, 3))(x), train))
        branches = [
            nn.relu(norm(conv(6, (3, 3), kernel_dilation=rate)(x), train)) for rate in (1, 2)
        ]
        mean = nn.relu(conv(4, (1, 1), name="image")(x.mean(axis=(1, 2), keepdims=True)))
        mean = jnp.broadcast_to(mean, (*x.shape[:-1], mean.shape[-1]))
        y = nn.relu(norm(conv(8, (1, 1))(jnp.concatenate([*branches, mean], axis=-1)), train))
        y = nn.Conv(5, (1, 1), name="head")(y)
        return jax.image.resize(y, (y.shape[0], 16, 16, 5), "bilinear")


class TwoInputs(nn.Module):
    """An image and a vector: one convolution each, a sum and a product."""

    @nn.compact
    def __call__(self, image: jax.Array, vector: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.relu(nn.Conv(8, (3, 3))(image)).mean(axis=(1, 2))
        y = nn.relu(nn.Dense(8)(vector))
        z = nn.Dense(6)(vector)
        x = nn.Dense(6)(x + y) * nn.sigmoid(z)
        return nn.Dense(5, name="head")(x)


class Features(nn.Module):
    """Hands out the features of its stages beside the logits."""

    named: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        del train
        found = {}
        for index, width in enumerate((8, 10, 12)):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            found[f"stage_{index}"] = x
        return {name: found[name] for name in self.named} | {"logits": pooled(x)}


NETWORKS: tuple[Network, ...] = (
    linen(
        "Inception",
        Inception(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 4,
            "Conv_2/kernel": 6,
            "Conv_3/kernel": 6,
            "Conv_4/kernel": 3,
            "Conv_5/kernel": 4,
            "Conv_6/kernel": 6,
            "Conv_7/kernel": 6,
            "Conv_8/kernel": 3,
        },
        frozen=ends(),
    ),
    linen(
        "DenseNet",
        DenseNet(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 8,
            "Conv_2/kernel": 4,
            "Conv_3/kernel": 8,
            "Conv_4/kernel": 4,
            "Conv_5/kernel": 8,
            "Conv_6/kernel": 8,
            "Conv_7/kernel": 4,
            "Conv_8/kernel": 8,
            "Conv_9/kernel": 4,
        },
        frozen=ends(),
    ),
    linen(
        "UNet",
        UNet(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 12,
            "Conv_2/kernel": 8,
            "ConvTranspose_0/kernel": 6,
        },
        frozen=ends("Conv_0/kernel 2", "head/kernel 3"),
    ),
    *(
        linen(
            f"FPN of {method}",
            Pyramid(method),
            IMAGES,
            elsewhere=LARGER,
            groups={
                "Conv_0/kernel": 8,
                "Conv_1/kernel": 10,
                "Conv_2/kernel": 12,
                "lateral_0/kernel": 8,
            },
            frozen={
                "axis of an input": ["Conv_0/kernel 2"],
                "axis of output": [
                    "out_0/bias 0",
                    "out_0/kernel 3",
                    "out_1/bias 0",
                    "out_1/kernel 3",
                    "out_2/bias 0",
                    "out_2/kernel 3",
                ],
            },
        )
        for method in ("nearest", "bilinear")
    ),
    linen(
        "pixel shuffle",
        SuperResolution(),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 8, "Conv_1/kernel": 6},
        frozen=ends("Conv_0/kernel 2", "head/kernel 3")
        | {"spatial axis of a convolution": ["Conv_1/bias 0", "Conv_1/kernel 3"]},
    ),
    linen(
        "DeepLab",
        DeepLab(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 6,
            "Conv_2/kernel": 6,
            "Conv_3/kernel": 8,
            "image/kernel": 4,
        },
        frozen=ends("Conv_0/kernel 2", "head/kernel 3"),
    ),
    linen(
        "two inputs",
        TwoInputs(),
        lambda batch: (*IMAGES(batch), *normal(7)(batch)),
        groups={"Conv_0/kernel": 8, "Dense_1/kernel": 6},
        frozen={
            "axis of an input": ["Conv_0/kernel 2", "Dense_0/kernel 0", "Dense_1/kernel 0"],
            "axis of output": ["head/bias 0", "head/kernel 1"],
        },
    ),
    linen(
        "features",
        Features(("stage_1",)),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 8, "Conv_2/kernel": 12},
        frozen={
            "axis of an input": ["Conv_0/kernel 2"],
            "axis of output": [
                "Conv_1/bias 0",
                "Conv_1/kernel 3",
                "Conv_2/kernel 2",
                "head/bias 0",
                "head/kernel 1",
            ],
        },
    ),
)
