"""Random residual networks in Linen and in NNX, which are written without some branches too."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

WIDTH, INNER, LAYERS = 4, 5, 3
FORMS = (
    "pre", "post", "activated", "parallel", "scaled", "remat", "shared", "scanned",
)  # fmt: skip
NNX_FORMS = FORMS[:-1]
TWO = ("pre", "parallel", "scanned")
"""Forms with two branches."""
Gone = frozenset[str]
"""Names of what a network is written without, `block_0/a`; `block_0/a#2` its second use."""


class Mlp(nn.Module):
    """Two layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(INNER, name="up", param_dtype=float)(x)
        return nn.Dense(WIDTH, name="down", param_dtype=float)(nn.gelu(x))


class Layer(nn.Module):
    """Two branches, for a scan."""

    gone: Gone

    @nn.compact
    def __call__(self, x, _):
        for name in "ab":
            x = x if name in self.gone else x + Mlp(name=name)(x)
        return x, None


class Block(nn.Module):
    """A block of a form."""

    form: str
    gone: Gone
    layers: int = LAYERS

    @nn.compact
    def __call__(self, x, train):
        return getattr(self, self.form, self.single)(x, train)

    def norm(self, name, x, train):
        return nn.BatchNorm(use_running_average=not train, name=name, param_dtype=float)(x)

    def pre(self, x, train):
        for name in sorted({"a", "b"} - self.gone):
            x = x + Mlp(name=name)(self.norm(f"norm_{name}", x, train))
        return x

    def parallel(self, x, train):
        names = sorted({"a", "b"} - self.gone)
        h = self.norm("norm", x, train) if names else x
        terms = [Mlp(name=name)(h) for name in names]
        return x + functools.reduce(operator.add, terms) if terms else x

    def shared(self, x, _train):
        names = {"a", "a#2"} - self.gone
        mlp = Mlp(name="a") if names else None
        for _ in names:
            x = x + mlp(x)
        return x

    def scanned(self, x, _train):
        kind = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
        )
        return kind(self.gone, name="stack")(x, None)[0]

    def single(self, x, train):
        if "a" not in self.gone:
            h = Mlp(name="a")(x)
            if self.form == "scaled":
                h = h * self.param("scale", nn.initializers.normal(), (1, WIDTH), float)
            x = x + h
        if self.form == "post":
            return self.norm("norm", x, train)
        return nn.relu(x) if self.form == "activated" else x


class Net(nn.Module):
    """A stem, blocks and a head."""

    forms: Sequence[str]
    gone: Gone = frozenset()
    layers: int = LAYERS

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(WIDTH, name="stem", param_dtype=float)(x)
        for i, form in enumerate(self.forms):
            kind = nn.remat(Block, static_argnums=(2,)) if form == "remat" else Block
            here = frozenset(g.partition("/")[2] for g in self.gone if g.startswith(f"block_{i}/"))
            x = kind(form, here, self.layers, name=f"block_{i}")(x, train)
        return nn.Dense(2, name="head", param_dtype=float)(x)


class NnxMlp(nnx.Module):
    """Two layers."""

    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, INNER, rngs=rngs, param_dtype=float)
        self.down = nnx.Linear(INNER, WIDTH, rngs=rngs, param_dtype=float)

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


class NnxBlock(nnx.Module):
    """A block of a form."""

    def __init__(self, form: str, gone: Gone, rngs):
        self.form, self.gone = form, gone
        both = gone >= {"a", "a#2"} if form == "shared" else "a" in gone
        self.a = None if both else NnxMlp(rngs)
        self.b = NnxMlp(rngs) if form in TWO and "b" not in gone else None
        if form == "pre":
            self.norm_a = None if self.a is None else batch_norm(rngs)
            self.norm_b = None if self.b is None else batch_norm(rngs)
        if form == "post" or (form == "parallel" and (self.a or self.b)):
            self.norm = batch_norm(rngs)
        if form == "scaled" and self.a is not None:
            self.scale = nnx.Param(jnp.ones((1, WIDTH), float))

    def __call__(self, x):
        return getattr(self, self.form, self.single)(x)

    def pre(self, x):
        x = x if self.a is None else x + self.a(self.norm_a(x))
        return x if self.b is None else x + self.b(self.norm_b(x))

    def parallel(self, x):
        mlps = [mlp for mlp in (self.a, self.b) if mlp is not None]
        h = self.norm(x) if mlps else x
        terms = [mlp(h) for mlp in mlps]
        return x + functools.reduce(operator.add, terms) if terms else x

    def shared(self, x):
        for _ in {"a", "a#2"} - self.gone:
            x = x + self.a(x)
        return x

    def single(self, x):
        if self.a is not None:
            run = type(self.a).__call__
            h = (nnx.remat(run) if self.form == "remat" else run)(self.a, x)
            x = x + (h * self.scale[...] if self.form == "scaled" else h)
        if self.form == "post":
            return self.norm(x)
        return jax.nn.relu(x) if self.form == "activated" else x


class NnxNet(nnx.Module):
    """A stem, blocks and a head."""

    def __init__(self, forms: Sequence[str], gone: Gone = frozenset()):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Linear(3, WIDTH, rngs=rngs, param_dtype=float)
        for i, form in enumerate(forms):
            here = frozenset(g.partition("/")[2] for g in gone if g.startswith(f"block_{i}/"))
            setattr(self, f"block_{i}", NnxBlock(form, here, rngs))
        self.count = len(forms)
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs, param_dtype=float)

    def __call__(self, x):
        x = self.stem(x)
        for i in range(self.count):
            x = getattr(self, f"block_{i}")(x)
        return self.head(x)


def batch_norm(rngs: Any) -> nnx.BatchNorm:
    return nnx.BatchNorm(WIDTH, rngs=rngs, param_dtype=float)
