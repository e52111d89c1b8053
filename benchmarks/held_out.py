"""What a reconstruction is worth on other data than its own, for correlated and white inputs.

Command: python -m benchmarks.held_out
Draws 100 random layers of 64 inputs, of which half go, fits them with `jp.recover.least_squares`
on some rows and measures the squared error of their outputs on as many fresh ones, over that of the
layer without its pruned inputs. Writes benchmarks/results/held_out.md. Half a minute.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.recover import Form

INPUTS, OUTPUTS, KEPT, LAYERS = 64, 16, 32, 100
RESULTS = Path(__file__).parent / "results" / "held_out.md"
TEXT = f"""# Reconstruction on held-out data

Written by `python -m benchmarks.held_out`: {LAYERS} random layers of {INPUTS} inputs and {OUTPUTS}
outputs, of which {KEPT} inputs stay. The error of the outputs on fresh rows over that
without any reconstruction; 1 is no gain. *Correlated* inputs are 8 factors and a third of noise,
so that the kept ones tell of the others; *white* ones are independent, where nothing can be told
and the excess over 1 is what fitting noise costs: about kept inputs / rows without a ridge.

| inputs | rows per kept input | ridge | form | mean | worst layer | layers above 1.1 |
|---|---|---|---|---|---|---|"""


def network(v: Any, x: Any) -> Any:
    """All layers beside each other: f32[rows, layers, inputs], which pass an identity first."""
    return jnp.einsum("rli,lio->rlo", x @ v["a"], v["b"]) + v["d"][None]


def rows(rng: np.random.Generator, count: int, mix: np.ndarray | None) -> np.ndarray:
    """Returns f32[count, layers, inputs]: white, or of the factors of `mix` [layers, 8, inputs]."""
    noise = rng.normal(size=(count, LAYERS, INPUTS))
    if mix is not None:
        factors = rng.normal(size=(count, *mix.shape[:2]))
        noise = np.einsum("rlf,lfi->rli", factors, mix) + mix.std() * noise
    return noise.astype(np.float32)


def ratios(correlated: bool, count: int, ridge: float, form: Form) -> np.ndarray:
    """Returns f[layers], the held-out error with reconstruction over that without."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(LAYERS, 8, INPUTS)) if correlated else None
    kernels = rng.normal(size=(LAYERS, INPUTS, OUTPUTS)).astype(np.float32)
    v = {"a": np.eye(INPUTS), "b": kernels, "d": np.zeros((LAYERS, OUTPUTS))}
    v = {name: w.astype(np.float32) for name, w in v.items()}
    x, fresh = rows(rng, count, mix), rows(rng, count, mix)
    graph = jp.trace(network, v, x)
    (group,) = graph.groups
    keep = {group: np.arange(INPUTS) < KEPT}  # the weights and factors are random already
    fitted = jp.recover.least_squares(graph, v, keep, [x], ridge=ridge, form=form).variables
    dense = network(v, fresh)
    errors = [
        np.sum(np.square(network(jp.mask(graph, w, keep), fresh) - dense), axis=(0, 2))
        for w in (fitted, v)
    ]
    return np.asarray(errors[0] / errors[1])


def main() -> None:
    """Writes the table."""
    lines = [TEXT]
    for correlated in (True, False):
        for per_input in (10, 30):
            for form, ridge in ((Form.KERNEL, 0.0), (Form.KERNEL, 0.01), (Form.SCALE, 0.01)):
                found = ratios(correlated, per_input * KEPT, ridge, form)
                kind = "correlated" if correlated else "white"
                lines.append(
                    f"| {kind} | {per_input} | {ridge:g} | {form.name} | {found.mean():.3f} "
                    f"| {found.max():.3f} | {(found > 1.1).sum()} |"
                )
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
