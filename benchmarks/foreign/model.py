"""A model of another package: its function, how it is traced, and how it is resized."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from flax import nnx

import jaxprune as jp

KEY = jax.random.key(0)
Function = Callable[..., Any]
Resize = Callable[[jp.ChannelGraph, Mapping[str, Any]], Function]


class Model(NamedTuple):
    """A function of variables and inputs."""

    fn: Function
    variables: Any
    inputs: tuple[Any, ...]
    resize: Resize
    trace: Callable[[], jp.ChannelGraph]
    output: Callable[[Any], Any] = lambda outputs: outputs
    cache: int | None = None  # which input is a cache, that is returned too


def plain(fn: Function, variables: Any, *inputs: Any) -> Model:
    """Returns a model that resizes as a plain function."""
    return Model(
        fn,
        variables,
        inputs,
        lambda graph, keep: jp.resize(fn, graph, keep),
        lambda: jp.trace(fn, variables, *inputs),
    )


def linen(module: Any, variables: Any, *inputs: Any, output: Any = None, **constants: Any) -> Model:
    """Returns a Linen module; inputs that are dicts are its keywords."""

    def call(module: Any, v: Any, *xs: Any) -> Any:
        rows = [x for x in xs if not isinstance(x, dict)]
        words = {name: x for each in xs if isinstance(each, dict) for name, x in each.items()}
        outputs = module.apply(v, *rows, **words, **constants)
        return outputs if output is None else outputs[output]

    return Model(
        partial(call, module),
        variables,
        inputs,
        lambda graph, keep: partial(call, jp.linen.resize(module, graph, keep)),
        lambda: jp.trace(partial(call, module), variables, *inputs),
    )


def of_nnx(
    model: nnx.Module, *inputs: Any, method: Any = "__call__", cache: int | None = None
) -> Model:
    """Returns an NNX model, in eval mode."""
    model.eval()
    state = () if cache is None else cache
    traced = partial(jp.nnx.trace, model, *inputs, method=method, state=state)

    def resize(graph: jp.ChannelGraph, keep: Mapping[str, Any]) -> Function:
        return jp.nnx.function(jp.nnx.resize(model, graph, keep), method=method)

    return Model(
        fn=jp.nnx.function(model, method=method),
        variables=jp.nnx.variables(model),
        inputs=inputs,
        resize=resize,
        trace=traced,
        output=lambda outputs: outputs[0],
        cache=cache,
    )


def equinox(model: Any, *inputs: Any, call: Function | None = None) -> Model:
    """Returns an Equinox model; `call` takes it and the inputs."""
    variables, static = eqx.partition(model, eqx.is_inexact_array)
    run = call or (lambda model, *xs: model(*xs))
    return plain(lambda v, *xs: run(eqx.combine(v, static), *xs), variables, *inputs)


def image(size: int, *, first: bool = False, batch: int = 1) -> np.ndarray:
    """Returns images [batch, size, size, 3], or with the channels first."""
    shape = (batch, 3, size, size) if first else (batch, size, size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def numbers(*shape: int) -> np.ndarray:
    """Returns random numbers."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def tokens(length: int) -> np.ndarray:
    """Returns token ids [1, length]."""
    return np.random.default_rng(0).integers(4, 90, (1, length)).astype(np.int32)


def places(length: int) -> np.ndarray:
    """Returns positions [1, length]."""
    return np.arange(length, dtype=np.int32)[None]
