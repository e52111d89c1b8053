"""Stub."""
import jax.numpy as jnp
from jaxprune.batchnorm import batch_norms
def parameters(graph):
    named = [path for path, leaf in graph.variables.items() if path.startswith("params/")]
    norms = batch_norms(list(graph.variables)).values()
    statistics = {path for norm in norms for path in (norm.mean, norm.var)}
    floating = [
        path
        for path, variable in graph.variables.items()
        if jnp.issubdtype(variable.dtype, jnp.floating) and path not in statistics
    ]
    return named or floating
