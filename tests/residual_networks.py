"""Random residual networks as functions, each with a form in which branches are left out by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    kept = kept or {}

    def stays(name: str, step: int | None = None) -> bool:
        found = np.asarray(kept.get(name, True))
        return bool(found[step] if found.ndim else found)

    def block(i: int, form: str, v: Any, x: Any) -> Any:
        a, b = f"+{i}/a/down", f"+{i}/b/down"
        if form == "scanned":
            return scanned(a, b, v, x)
        if form == "parallel":
            if not stays(a + b):
                return x
            h = norm(x)
            terms = [mlp(v[n], h) for n, name in (("a", a), ("b", b)) if stays(name)]
            return x + sum(terms) if terms else x
        if form == "nested":
            h = x * v["scale"][None]
            h = h + mlp(v["b"], h) if stays(b) else h
            return x + mlp(v["a"], h) if stays(a) else x
        make = {
            "scaled": lambda: mlp(v["a"], x) * v["scale"][None],
            "dropped": lambda: jnp.where(jnp.arange(len(x))[:, None] != 1, mlp(v["a"], x) / 0.9, 0),
            "post": lambda: mlp(v["a"], x),
            "activated": lambda: mlp(v["a"], x),
        }.get(form, lambda: mlp(v["a"], norm(x)))
        y = x + make() if stays(a) else x
        if form == "pre":
            return y + mlp(v["b"], y) if stays(b) else y
        if form == "shared":
            return y + mlp(v["a"], norm(y)) if stays(f"{a}#2") else y
        return {"post": norm, "activated": jax.nn.relu}.get(form, lambda y: y)(y)

    def scanned(a: str, b: str, v: Any, x: Any) -> Any:
        if not kept:
            return jax.lax.scan(lambda x, w: (step(w, x, True, True), None), x, layers(v))[0]
        for i in range(STEPS):
            x = step(jax.tree.map(lambda w, i=i: w[i], layers(v)), x, stays(a, i), stays(b, i))
        return x

    def apply(v: Any, x: Any) -> Any:
        x = x @ v["stem"]
        for i, form in enumerate(forms):
            run = lambda v, x, i=i, form=form: block(i, form, v, x)
            wrap = {"jitted": jax.jit, "remat": jax.checkpoint}.get(form, lambda run: run)
            x = wrap(run)(v[f"{i}"], x)
        return x @ v["head"]

    return apply


def layers(v: Any) -> Any:
    return {"a": v["a"], "b": v["b"]}


def step(v: Any, x: Any, first: bool, second: bool) -> Any:
    x = x + mlp(v["a"], norm(x)) if first else x
    return x + mlp(v["b"], x) if second else x


def mlp(v: Any, x: Any) -> Any:
    return jax.nn.gelu(x @ v["up"]) @ v["down"] + v["bias"][None]


def norm(x: Any) -> Any:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1)


def drawn_keep(graph: jp.ChannelGraph, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns branches and channels that stay, both drawn; of the channels those of exact groups."""
    keep = {name: random.random(item.shape) < 0.5 for name, item in jp.branches(graph).items()}
    for name, group in graph.groups.items():
        if group.inexact is None and random.random() < 0.5:
            count = random.integers(1, group.size + 1)
            chosen = np.broadcast_to(np.arange(group.size) < count, group.shape)
            keep[name] = random.permuted(chosen, axis=-1)
    return keep
