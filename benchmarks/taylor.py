"""What Taylor scores cost: the gradient of one batch with them and without.

Command: python -m benchmarks.taylor
Compiles the gradient of the loss of ResNet-20 on 64 images of 32x32 pixels, and beside it the
programs that give the same gradient and the scores of all groups too: from the weights that read a
channel (`taylor`), from the BatchNorms (`taylor_bn`), from decorated BatchNorms (`taylor_gate`) and
from unit gates (`gated`). `taylor_activation` gives scores alone, of each example by itself. Prints
which operations and flops they add, and the ratios of the times, interleaved, beside that of two
identical programs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks.programs import operations, print_times
from benchmarks.resnet20 import MODEL, problem
from experiments.runner.training import cross_entropy

Apply = Callable[..., Any]


def train_mode(variables: Any, images: jax.Array) -> Any:
    """Returns the logits, with the statistics of the batch, and what moved."""
    return MODEL.apply(variables, images, train=True, mutable=["batch_stats"])


def eval_mode(variables: Any, images: jax.Array) -> Any:
    """Returns the logits, with running statistics."""
    return MODEL.apply(variables, images, train=False)


def scorers(graph: jp.ChannelGraph) -> dict[str, Apply]:
    """Returns {name: (variables, images, labels) -> (gradients, scores)}."""
    gated = jp.gated(train_mode, graph)
    each = jp.gated(eval_mode, graph)
    unit = jp.gates.unit(graph)

    def scored(form: Apply, score: Apply) -> Apply:
        def run(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
            def loss(params: Any) -> jax.Array:
                logits, _ = train_mode(form({**variables, "params": params}), images)
                return cross_entropy(logits, labels)

            gradients = {"params": jax.grad(loss)(variables["params"])}
            return gradients, score(graph, variables, gradients)

        return run

    def by_gates(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any, gates: Any) -> jax.Array:
            return cross_entropy(gated({**variables, "params": params}, gates, images)[0], labels)

        found, slopes = jax.grad(loss, (0, 1))(variables["params"], unit)
        return {"params": found}, jax.tree.map(jnp.abs, slopes)

    def by_example(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(gates: Any, image: jax.Array, label: jax.Array) -> jax.Array:
            return cross_entropy(each(variables, gates, image[None]), label[None])

        slopes = jax.vmap(jax.grad(loss), (None, 0, 0))(unit, images, labels)
        return {}, jp.scores.taylor_activation(graph, slopes)

    def same(variables: Any) -> Any:
        return variables

    plain = scored(same, lambda *_: {})
    return {
        "gradient": plain,
        "gradient again": plain,
        "taylor": scored(same, jp.scores.taylor),
        "taylor_bn": scored(same, jp.scores.taylor_bn),
        "taylor_gate": scored(jp.gates.melt, jp.scores.taylor_gate),
        "gated": by_gates,
        "taylor_activation": by_example,
    }


def main() -> None:
    """Prints the comparison."""
    graph, variables, images, labels = problem()
    programs: dict[str, Any] = {
        name: jax.jit(lambda *args, run=run: run(*args)).lower(variables, images, labels).compile()
        for name, run in scorers(graph).items()
    }
    before = operations(programs["gradient"])
    flops = programs["gradient"].cost_analysis()["flops"]
    print(f"{len(graph.groups)} groups; gradient: {before.total()} operations, {flops:.3g} flops")
    for name in list(programs)[2:]:
        after, more = operations(programs[name]), programs[name].cost_analysis()["flops"] - flops
        print(f"{name}: {after.total()} operations; {more:,.0f} flops more, {more / flops:.1e}")
    calls = {
        name: partial(program, variables, images, labels) for name, program in programs.items()
    }
    print_times(calls, "gradient", rounds=30)


if __name__ == "__main__":
    main()
