"""Random residual networks as functions, which are written without some branches too."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

WIDTH, INNER, STEPS = 4, 5, 3
FORMS = (
    "pre", "post", "activated", "parallel", "scaled", "dropped", "jitted", "remat", "shared",
    "scanned", "nested",
)  # fmt: skip
TWO = ("parallel", "scanned", "pre", "nested")
"""Forms with two branches, that have weights of their own."""
Kept = Mapping[str, Any]
"""{branch: bool, or bool[steps]}; what is absent stays."""


def variables(forms: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Returns the variables of a network, in double precision."""
    random = np.random.default_rng(seed)

    def layer(*lead: int) -> dict[str, np.ndarray]:
        shapes = {"up": (WIDTH, INNER), "down": (INNER, WIDTH), "bias": (WIDTH,)}
        return {name: random.normal(size=(*lead, *shape)) for name, shape in shapes.items()}

    found: dict[str, Any] = {"stem": random.normal(size=(3, WIDTH))}
    for i, form in enumerate(forms):
        lead = (STEPS,) if form == "scanned" else ()
        own: dict[str, Any] = {"a": layer(*lead)}
        own |= {"b": layer(*lead)} if form in TWO else {}
        own |= {"scale": random.normal(size=WIDTH)} if form in ("scaled", "nested") else {}
        found[f"{i}"] = own
    return found | {"head": random.normal(size=(WIDTH, 2))}


def names(forms: Sequence[str]) -> list[str]:
    """Returns the branches that a network has, sorted."""
    found = []
    for i, form in enumerate(forms):
        a, b = f"+{i}/a/down", f"+{i}/b/down"
        both = {"parallel": [a + b], "shared": [f"{a}#2"], "nested": []}
        found += [a, *([b] if form in TWO else []), *both.get(form, [])]
    return sorted(found)


def network(forms: Sequence[str], kept: Kept | None = None) -> Callable[[Any, Any], Any]:
    """Returns the function of a network, written without the branches that `kept` leaves out."""
    without = Without(kept or {})

    def apply(v: Any, x: Any) -> Any:
        x = x @ v["stem"]
        for i, form in enumerate(forms):
            run = functools.partial(getattr(without, form, without.pre), f"+{i}/a/down")
            if form in ("jitted", "remat"):
                run = {"jitted": jax.jit, "remat": jax.checkpoint}[form](run)
            x = run(v[f"{i}"], x)
        return x @ v["head"]

    return apply


class Without(NamedTuple):
    """The forms of blocks without some branches; `a` is the name of the first of a block."""

    kept: Kept

    def stays(self, name: str, step: int | None = None) -> bool:
        found = np.asarray(self.kept.get(name, True))
        return bool(found[step] if found.ndim else found)

    def pre(self, a: str, v: Any, x: Any) -> Any:
        x = x + mlp(v["a"], norm(x)) if self.stays(a) else x
        return x + mlp(v["b"], x) if "b" in v and self.stays(second(a)) else x

    def post(self, a: str, v: Any, x: Any) -> Any:
        return norm(x + mlp(v["a"], x) if self.stays(a) else x)

    def activated(self, a: str, v: Any, x: Any) -> Any:
        return jax.nn.relu(x + mlp(v["a"], x) if self.stays(a) else x)

    def parallel(self, a: str, v: Any, x: Any) -> Any:
        named = {"a": a, "b": second(a)}
        terms = [mlp(v[key], norm(x)) for key, name in named.items() if self.stays(name)]
        return x + sum(terms) if terms and self.stays(a + second(a)) else x

    def scaled(self, a: str, v: Any, x: Any) -> Any:
        return x + mlp(v["a"], x) * v["scale"][None] if self.stays(a) else x

    def dropped(self, a: str, v: Any, x: Any) -> Any:
        kept = jnp.arange(len(x))[:, None] != 1
        return x + jnp.where(kept, mlp(v["a"], x) / 0.9, 0) if self.stays(a) else x

    def shared(self, a: str, v: Any, x: Any) -> Any:
        for name in (a, f"{a}#2"):
            x = x + mlp(v["a"], norm(x)) if self.stays(name) else x
        return x

    def nested(self, a: str, v: Any, x: Any) -> Any:
        h = x * v["scale"][None]
        h = h + mlp(v["b"], h) if self.stays(second(a)) else h
        return x + mlp(v["a"], h) if self.stays(a) else x

    def scanned(self, a: str, v: Any, x: Any) -> Any:
        if not self.kept:
            return jax.lax.scan(lambda x, w: (self.pre(a, w, x), None), x, v)[0]
        for i in range(STEPS):
            here = {name: self.stays(name, i) for name in (a, second(a))}
            x = Without(here).pre(a, jax.tree.map(lambda w, i=i: w[i], v), x)
        return x


def second(a: str) -> str:
    return a.replace("/a/", "/b/")


def mlp(v: Any, x: Any) -> Any:
    return jax.nn.gelu(x @ v["up"]) @ v["down"] + v["bias"][None]


def norm(x: Any) -> Any:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1)


def drawn_keep(graph: jp.ChannelGraph, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns branches and channels that stay, both drawn; channels only of exact groups."""
    keep = {name: random.random(item.shape) < 0.5 for name, item in jp.branches(graph).items()}
    for name, group in graph.groups.items():
        if group.inexact is None and random.random() < 0.5:
            count = random.integers(1, group.size + 1)
            chosen = np.broadcast_to(np.arange(group.size) < count, group.shape)
            keep[name] = random.permuted(chosen, axis=-1)
    return keep
