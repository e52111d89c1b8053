"""Small Linen modules, each with one thing that is hard, or must not be hard, to resize."""

import flax.linen as nn
import jax.numpy as jnp


class HandAttention(nn.Module):
    """Attention with its head count written into a reshape."""

    heads: int = 4

    @nn.compact
    def __call__(self, x):
        batch, length, features = x.shape
        query, key, value = (
            nn.Dense(16, name=name)(x).reshape(batch, length, self.heads, -1)
            for name in ("query", "key", "value")
        )
        weights = nn.softmax(jnp.einsum("bthd,bshd->bhts", query, key) / 3)
        out = jnp.einsum("bhts,bshd->bthd", weights, value).reshape(batch, length, -1)
        return nn.Dense(features, name="out")(out)


class Encoder(nn.Module):
    """`HandAttention` inside another module."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x + HandAttention(name="attention")(x))


class VanishingProjection(nn.Module):
    """A residual block that projects where the widths differ, as in Flax's own ResNet."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        y = nn.Conv(12, (3, 3), name="body")(x)
        if x.shape != y.shape:
            x = nn.Conv(12, (1, 1), name="project")(x)
        return nn.Dense(3)(nn.relu(x + y).mean(axis=(1, 2)))


class AppearingResidual(nn.Module):
    """A residual connection where the widths happen to agree."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        y = nn.relu(nn.Conv(12, (3, 3), name="body")(x))
        if x.shape == y.shape:
            y = x + y
        return nn.Dense(3)(y.mean(axis=(1, 2)))


class HandGroupNorm(nn.Module):
    """A GroupNorm of four groups, whatever the width."""

    @nn.compact
    def __call__(self, x):
        grouped = x.reshape(*x.shape[:-1], 4, x.shape[-1] // 4)
        mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
        var = ((grouped - mean) ** 2).mean(axis=(1, 2, 4), keepdims=True)
        normal = ((grouped - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
        scale = self.param("scale", nn.initializers.ones, (1, 1, 1, x.shape[-1]))
        return normal * scale + self.param("bias", nn.initializers.zeros, scale.shape)


class Normalized(nn.Module):
    """A convolution, a normalization, the head."""

    norm: nn.Module
    features: int = 24

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.norm(nn.Conv(self.features, (3, 3), name="conv")(x)))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


class AttentionBlock(nn.Module):
    """Linen's own attention with a LayerNorm."""

    heads: int = 3
    head_dim: int = 4
    features: int = 7

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            qkv_features=self.heads * self.head_dim,
            out_features=self.features,
            name="attend",
        )
        return nn.Dense(3)(nn.LayerNorm()(attend(x)))


class DepthwiseBlock(nn.Module):
    """A depthwise convolution of two channels per input channel, with BatchNorm."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(5, (3, 3))(x))
        x = nn.relu(nn.Conv(10, (3, 3), feature_group_count=5)(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


class TransposeBlock(nn.Module):
    """A transposed convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.ConvTranspose(6, (3, 3), strides=(2, 2))(nn.Conv(5, (3, 3))(x)))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


class DenseGeneralBlock(nn.Module):
    """Two feature axes made by one kernel and contracted by the next."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.DenseGeneral((4, 5))(x))
        return nn.DenseGeneral(3, axis=(-2, -1))(x)


class EmbedBlock(nn.Module):
    """An embedding that is also the output layer."""

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(11, 8)
        x = embed(ids)
        x = x + nn.Dense(8)(nn.relu(nn.Dense(6)(x)))
        return embed.attend(x)


class SetupBlock(nn.Module):
    """Layers made in `setup`, one of them in a list and one used twice."""

    def setup(self):
        self.first = nn.Dense(8)
        self.hidden = [nn.Dense(8), nn.Dense(6)]
        self.last = nn.Dense(3)

    def __call__(self, x):
        x = nn.relu(self.first(x))
        x = nn.relu(self.hidden[0](nn.relu(self.hidden[0](x))))
        return self.last(nn.relu(self.hidden[1](x)))

    def features(self, x):
        """Returns what the last layer sees."""
        return nn.relu(self.first(x)) @ jnp.ones((self.first.features, 1))


class FieldBlock(nn.Module):
    """Layers passed to the constructor."""

    first: nn.Module
    second: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(self.second(nn.relu(self.first(x)))))


class Mlp(nn.Module):
    """A residual multilayer perceptron; the carry of a scan."""

    hidden: int = 10

    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(x.shape[-1])(nn.relu(nn.Dense(self.hidden)(x))), None


class RematBlock(nn.Module):
    """A rematerialized layer."""

    @nn.compact
    def __call__(self, x):
        x, _ = nn.remat(Mlp)()(nn.Dense(8)(x))
        return nn.Dense(3)(x)


class Wide(nn.Module):
    """Two layers, the first one wider."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(nn.relu(nn.Dense(self.features + 2)(x)))


class SwitchBlock(nn.Module):
    """A layer under the field name that a wrapper of modules likes to use."""

    module: nn.Module

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="original")(x))
        return nn.Dense(3)(nn.relu(self.module(x)))


class ScanBlock(nn.Module):
    """Three layers as one scan over stacked parameters."""

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Mlp, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack()(nn.Dense(8)(x), None)
        return nn.Dense(3)(x)


class RematScanBlock(nn.Module):
    """A scan of rematerialized layers."""

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Mlp, prevent_cse=False)
        stack = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack(hidden=6)(nn.Dense(8)(x), None)
        return nn.Dense(3)(x)


class Outer(nn.Module):
    """Any module as one layer of another."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(4)(self.inner(x)))
