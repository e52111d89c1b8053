"""Small Keras models of many layers, and classes of layers of our own."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from jaxprune.keras.names import variables_of

L, ops = keras.layers, keras.ops
RANDOM = np.random.default_rng(0)


class Block(L.Layer):
    """Its configuration explains the sizes inside."""

    def __init__(self, width, size, **options):
        super().__init__(**options)
        self.width, self.size = width, size
        self.first, self.last = L.Dense(width), L.Dense(size)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((*shape[:-1], self.width))

    def call(self, x):
        return self.last(ops.relu(self.first(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "size": self.size}


class Heads(L.Layer):
    """Sizes that only the configuration shows."""

    def __init__(self, heads, size, **options):
        super().__init__(**options)
        self.heads, self.size = heads, size

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.heads * self.size), name="kernel")

    def call(self, x):
        y = ops.reshape(x @ self.kernel, (-1, x.shape[1], self.heads, self.size))
        return ops.tanh(ops.sum(y, axis=2))


class Net(keras.Model):
    """A subclassed model without a configuration."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = L.Dense(8), L.BatchNormalization(), L.Dense(2)

    def call(self, x, training=None):
        return self.last(self.norm(ops.relu(self.first(x)), training=training))


def convolutions():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, name="conv"),
            L.BatchNormalization(),
            L.ReLU(),
            L.DepthwiseConv2D(3, depth_multiplier=2),
            L.SeparableConv2D(10, 3),
            L.GroupNormalization(5),
            L.Conv2DTranspose(6, 3),
            L.Flatten(),
            L.Dense(4),
        ]
    )


def attention():
    x = inputs = keras.Input((7, 6))
    x = L.Dense(12)(x)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 3, name="mha")(x, x))
    x = x + L.GroupQueryAttention(4, 4, 2)(x, x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def recurrent():
    x = inputs = keras.Input((6,), dtype="int32")
    x = L.LSTM(10, return_sequences=True)(L.Embedding(11, 8)(x))
    x = L.Bidirectional(L.GRU(6, return_sequences=True, use_cudnn=False), name="both")(x)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True), merge_mode="sum")(x)
    x = L.RNN(L.LSTMCell(7))(L.TimeDistributed(L.Dense(9))(x))
    return keras.Model(inputs, L.Dense(3)(x))


def squeezed():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3)(x)
    s = L.Reshape((1, 1, 16), name="to_map")(L.GlobalAveragePooling2D()(x))
    x = x * L.Conv2D(16, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(s))
    x = L.Conv2D(16, 3, groups=4, name="grouped")(x)
    x = ops.relu(ops.reshape(x, (-1, 16, 16)))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.Conv1D(6, 3)(x))))


def nested():
    layers = [L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D()]
    backbone = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="backbone")
    y = middle = keras.Input((3, 3, 8))
    inner = keras.Model(middle, L.Conv2D(6, 1)(L.ReLU()(L.Conv2D(10, 3)(y))), name="inner")
    inputs = keras.Input((8, 8, 3))
    x = inner(backbone(L.Rescaling(1 / 255)(inputs)))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


def shared():
    dense, stem = L.Dense(8, name="shared"), L.Dense(8)
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    x = L.concatenate([dense(ops.relu(stem(a))), dense(ops.relu(stem(b)))])
    x = L.Lambda(lambda y: (y - 2.0) * 3.0)(x)
    return keras.Model({"a": a, "b": b}, {"y": L.Dense(2)(x), "z": L.Dense(3)(x)})


def custom():
    inputs = keras.Input((5, 6))
    x = Heads(4, 3, name="heads")(Block(8, 3, name="block")(inputs))
    return keras.Model(inputs, L.Dense(2)(x))


def subclassed():
    model = Net()
    model(np.zeros((1, 6), np.float32))
    return model


def images(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


# Name -> (model, its input).
NETWORKS = {
    "convolutions": (convolutions, images(2, 8, 8, 3)),
    "attention": (attention, images(2, 7, 6)),
    "recurrent": (recurrent, RANDOM.integers(0, 11, (2, 6)).astype(np.int32)),
    "squeezed": (squeezed, images(2, 8, 8, 3)),
    "nested": (nested, images(2, 8, 8, 3)),
    "shared": (shared, {"a": images(2, 8), "b": images(2, 8)}),
    "custom": (custom, images(2, 5, 6)),
    "subclassed": (subclassed, images(2, 6)),
}
OBJECTS = {"Block": Block, "Heads": Heads}


def made(name):
    """Returns a model with drawn variables, none of them zeros or ones, and its input."""
    make, x = NETWORKS[name]
    model = make()
    for variable in variables_of(model).values():
        if "float" in variable.dtype:
            variable.assign(RANDOM.uniform(0.1, 0.5, variable.shape))
    return model, x


def half(graph):
    return {n: np.arange(g.size) % 2 == 0 for n, g in graph.groups.items()}


def call(model, x, **options):
    return jax.tree.map(np.asarray, jax.jit(lambda x: model(x, **options))(x))
