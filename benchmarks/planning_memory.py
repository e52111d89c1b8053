"""Peak memory of planning a network: no weights and no activations are allocated.

Command: python -m benchmarks.planning_memory
Traces, scores nothing, plans a 50 % MACs budget for a 4096-wide MLP of 16 layers (1.1 GB of
weights) on shapes alone, in a fresh process, and prints the peak memory beside that of the imports.
"""

import resource

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

WIDTH, LAYERS = 4096, 16


def mlp(variables: list[jax.Array], x: jax.Array) -> jax.Array:
    """Returns f32[batch, WIDTH]."""
    for kernel in variables:
        x = jax.nn.relu(x @ kernel)
    return x


def peak() -> float:
    """Returns the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the figures."""
    kernel = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    x = jax.ShapeDtypeStruct((256, WIDTH), jnp.float32)
    jax.eval_shape(mlp, [kernel], x)
    before = peak()
    graph = jp.trace(mlp, [kernel] * LAYERS, x)
    scores = {name: np.arange(group.size) for name, group in graph.groups.items()}
    keep = jp.select.budget(graph, scores, keep_macs=0.5)
    macs = jp.cost.macs(graph, keep) / jp.cost.macs(graph)
    weights = 4 * jp.cost.params(graph) / 2**20
    print(f"weights {weights:.0f} MB, kept MACs {macs:.1%}")
    print(f"peak before planning {before:.0f} MB, after {peak():.0f} MB")


if __name__ == "__main__":
    main()
