"""Steps in bfloat16 and float64: what is lowered, what is not, and that it trains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from experiments import data, models
from experiments.runner import devices, fit, precision, training
from experiments.runner.config import Common

DIGITS = data.load("digits", limit=256)
WIDTHS = (16, 12)


def trained(kind: Any, number: int) -> tuple[fit.State, list[Any]]:
    """A small network after so many epochs of digits, and the figures of each."""
    found, tx, model = [], training.sgd(0.1), models.build("mlp", classes=10, widths=WIDTHS)
    image = np.zeros((1, *DIGITS.image_shape), np.float32)
    variables = jax.device_get(model.init(jax.random.key(0), image, train=False))
    journal = fit.QUIET._replace(on_epoch=lambda epoch, _: found.append(epoch.figures))
    with devices.using(Common(precision=kind)):
        state = training.fit(
            model, variables, DIGITS, tx=tx, epochs=number, batch_size=32, key=jax.random.key(1),
            journal=journal,
        )  # fmt: skip
    return state, found


def kinds(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if leaf.dtype.kind == "f"}


def test_it_trains_in_bfloat16_and_what_it_trains_is_float32() -> None:
    state, found = trained("bfloat16", 8)
    assert kinds((state.variables, state.opt_state)) == {"float32"}
    assert found[-1]["train"]["accuracy"] > 0.8
    assert found[-1]["train"]["loss"] < 0.5 * found[0]["train"]["loss"]


def test_bfloat16_rounds_and_float64_does_not() -> None:
    losses = {kind: trained(kind, 1)[1][0]["train"]["loss"] for kind in ("float32", "bfloat16")}
    state, (wide,) = trained("float64", 1)
    assert kinds((state.variables, state.opt_state)) == {"float64"}
    assert 0 < abs(wide["train"]["loss"] - losses["float32"]) < 1e-5
    assert 1e-5 < abs(wide["train"]["loss"] - losses["bfloat16"]) < 0.05
    assert jnp.ones(1).dtype == jnp.float32, "only inside of a run"


def test_a_network_sees_low_params_and_inputs_and_gives_float32() -> None:
    seen: dict[str, Any] = {}

    def run(variables: Any, inputs: Any) -> Any:
        seen.update(jax.tree.map(lambda leaf: str(leaf.dtype), {**variables, "inputs": inputs}))
        return inputs * variables["params"]

    variables = {"params": jnp.ones(2), "batch_stats": jnp.ones(2)}
    assert precision.lowered(run) is run
    with devices.using(Common(precision="bfloat16")):
        out = precision.lowered(run)(variables, (jnp.ones(2), jnp.arange(2))[0])
    assert out.dtype == jnp.float32
    assert seen == {"params": "bfloat16", "batch_stats": "float32", "inputs": "bfloat16"}


@pytest.mark.parametrize("name", ["convnet", "decoder"])
def test_every_kind_of_network_computes_low(name) -> None:
    """The products of a traced step are of bfloat16 alone."""
    fields: Any = {"stream": 8, "heads": 2, "shared": 2, "size": 4} if name == "decoder" else {}
    model = models.build(name, classes=10, widths=(4,), **fields)
    inputs = jnp.ones((2, 8, 8, 1)) if name == "convnet" else jnp.ones((2, 8))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
    with devices.using(Common(precision="bfloat16")):
        apply = precision.lowered(
            lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
        )
        jaxpr = jax.make_jaxpr(apply)(variables, inputs)
    text = [
        line for line in str(jaxpr).splitlines() if "conv_general" in line or "dot_general" in line
    ]
    assert text
    heads = [line.partition("=")[0] for line in text]
    assert sum("bf16" in head for head in heads) >= len(heads) - 2, heads
