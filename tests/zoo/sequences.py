"""Networks along time: dilated convolutions, recurrent cells, state spaces."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from zoo.layers import ends
from zoo.zoo import Network, linen, normal

SOUND = normal(10, 3)
LONGER = normal(14, 3)
DOUBLE = {"param_dtype": jnp.float64}
"""The carry of a cell has the type of its parameters."""


class WaveNet(nn.Module):
    """Gated causal convolutions with growing dilation, residuals, and a sum of skips.

    Source: van den Oord et al., WaveNet, 2016, figure 4.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x, skips = nn.Conv(8, (1,), name="stem")(x), 0.0
        for index, rate in enumerate((1, 2, 4)):
            options = {"kernel_dilation": rate, "padding": "CAUSAL"}
            filtered = nn.Conv(10, (2,), name=f"filter_{index}", **options)(x)
            gate = nn.Conv(10, (2,), name=f"gate_{index}", **options)(x)
            y = nn.tanh(filtered) * nn.sigmoid(gate)
            skips = skips + nn.Conv(6, (1,), name=f"skip_{index}")(y)
            x = x + nn.Conv(8, (1,), name=f"residual_{index}")(y)
        x = nn.relu(nn.Conv(7, (1,), name="last")(nn.relu(skips)))
        return nn.Conv(5, (1,), name="head")(x)


class Recurrent(nn.Module):
    """Two recurrent layers, one over the other."""

    cells: tuple[nn.RNNCellBase, nn.RNNCellBase]

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> jax.Array:
        del train
        for index, cell in enumerate(self.cells):
            x = nn.RNN(cell, name=f"layer_{index}")(x)
        return nn.Dense(5, name="head")(x.mean(axis=1))


class Bidirectional(nn.Module):
    """A recurrent layer in both directions, whose features stand side by side."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> jax.Array:
        del train
        forward, backward = (nn.RNN(nn.GRUCell(n, **DOUBLE)) for n in (6, 8))
        x = nn.Bidirectional(forward, backward)(x)
        return nn.Dense(5, name="head")(x)


class StateSpace(nn.Module):
    """A gated block: causal depthwise convolution, then a selective scan of states.

    Source: Gu and Dao, Mamba, 2023, algorithm 2.
    """

    features: int = 8
    inner: int = 12
    states: int = 4
    rank: int = 3
    associative: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Dense(self.features, name="embed")(x)
        both = nn.Dense(2 * self.inner, use_bias=False, name="in_proj")(x)
        y, gate = jnp.split(both, 2, axis=-1)
        y = nn.Conv(
            y.shape[-1], (3,), padding="CAUSAL", feature_group_count=y.shape[-1], name="conv"
        )(y)
        y = self.mix(nn.silu(y)) * nn.silu(gate)
        x = x + nn.Dense(self.features, use_bias=False, name="out_proj")(y)
        return nn.Dense(5, name="head")(x)

    def mix(self, y: jax.Array) -> jax.Array:
        """Returns the selective scan of `y`, [batch, time, inner]."""
        sizes = (self.rank, self.states, self.states)
        rank, inputs, outputs = (
            nn.Dense(size, use_bias=False, name=name)(y)
            for size, name in zip(sizes, ("dt_down", "b", "c"), strict=True)
        )
        step = nn.softplus(nn.Dense(self.inner, name="dt_proj")(rank))
        a = -jnp.exp(self.param("a_log", nn.initializers.ones, (self.inner, self.states)))
        decay = jnp.exp(step[..., None] * a[None, None])
        driven = (step * y)[..., None] * inputs[:, :, None]
        states = self.scanned(decay, driven)
        skip = self.param("d", nn.initializers.ones, (self.inner,))
        return jnp.einsum("btds,bts->btd", states, outputs) + y * skip[None, None]

    def scanned(self, decay: jax.Array, driven: jax.Array) -> jax.Array:
        """Returns the states h[t] = decay[t] h[t - 1] + driven[t], time on axis 1."""
        if self.associative:

            def join(a: tuple, b: tuple) -> tuple:
                return a[0] * b[0], b[0] * a[1] + b[1]

            return lax.associative_scan(join, (decay, driven), axis=1)[1]

        def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple:
            state = now[0] * state + now[1]
            return state, state

        first = jnp.zeros_like(driven[:, 0])
        over_time = decay.swapaxes(0, 1), driven.swapaxes(0, 1)
        return lax.scan(step, first, over_time)[1].swapaxes(0, 1)


RECURRENT: tuple[Network, ...] = (
    *(
        linen(
            cell.__name__,
            Recurrent((cell(6, **DOUBLE), cell(8, **DOUBLE))),
            SOUND,
            elsewhere=LONGER,
            groups={f"cells_0/{hidden}/kernel": 6, f"cells_1/{hidden}/kernel": 8},
            frozen=ends("cells_0/i*/kernel 0"),
        )
        for cell, hidden in (
            (nn.OptimizedLSTMCell, "hf"),
            (nn.LSTMCell, "hf"),
            (nn.GRUCell, "hn"),
        )
    ),
    linen(
        "bidirectional GRU",
        Bidirectional(),
        SOUND,
        elsewhere=LONGER,
        groups={"GRUCell_0/hn/kernel": 6, "GRUCell_1/hn/kernel": 8},
        frozen={
            "axis of an input": [
                "GRUCell_0/in/kernel 0",
                "GRUCell_0/ir/kernel 0",
                "GRUCell_0/iz/kernel 0",
                "GRUCell_1/in/kernel 0",
                "GRUCell_1/ir/kernel 0",
                "GRUCell_1/iz/kernel 0",
            ],
            "axis of output": ["head/bias 0", "head/kernel 1"],
        },
    ),
)

NETWORKS: tuple[Network, ...] = (
    *RECURRENT,
    linen(
        "WaveNet",
        WaveNet(),
        SOUND,
        elsewhere=LONGER,
        groups={
            "filter_0/kernel": 10,
            "residual_0/kernel": 8,
            "filter_1/kernel": 10,
            "filter_2/kernel": 10,
            "last/kernel": 7,
            "skip_0/kernel": 6,
        },
        frozen=ends("stem/kernel 1", "head/kernel 2"),
    ),
    linen(
        "Mamba",
        StateSpace(),
        SOUND,
        elsewhere=LONGER,
        groups={"conv/kernel": 12, "b/kernel": 4, "dt_down/kernel": 3, "embed/kernel": 8},
        frozen=ends("embed/kernel 0"),
    ),
    linen(
        "Mamba with an associative scan",
        StateSpace(associative=True),
        SOUND,
        elsewhere=LONGER,
        groups={"conv/kernel": 12, "b/kernel": 4, "dt_down/kernel": 3, "embed/kernel": 8},
        frozen=ends("embed/kernel 0"),
    ),
)
