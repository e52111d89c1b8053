"""What many widths cost: a training step of all of them, a switch between them, a search.

Command: python -m benchmarks.slimmable
On ResNet-20 and 64 images of 32x32 pixels. Prints

* the time of the gradient of an S-Net with four widths as a share of the sum of the gradients of
  four plain networks of these sizes, beside that of the same plain programs again;
* the time of a US-Net's gradient with two drawn widths that are executed by mask, in one program,
  as a share of that where they are sliced, with a program for each;
* what a switch between widths compiles after the first calls;
* the time of a greedy search down to a quarter of the MACs as a share of that of as many forward
  passes of the plain network, and how many programs it compiles.

All that is compared takes turns.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.programs import operations, print_times
from benchmarks.resnet20 import MODEL, problem
from experiments.runner.training import cross_entropy
from jaxprune import slimmable
from jaxprune.keep.check import Keep

WIDTHS = (1.0, 0.75, 0.5, 0.25)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Yields a list that grows by what JAX compiles in the block."""
    found: list[str] = []
    running = True

    def listen(event: str, *_: Any, **__: Any) -> None:
        if running and event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        running = False


def train_mode(graph: jp.ChannelGraph, keep: Keep) -> Callable[[Any, Any], Any]:
    """Returns the network at a width: (variables, images) -> (logits, new statistics)."""
    model = jp.linen.resize(MODEL, graph, keep)
    return partial(model.apply, train=True, mutable=["batch_stats"])


def plain(run: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Returns the gradient of one network by itself."""

    def gradient(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            logits, moved = run({**variables, "params": params}, images)
            return cross_entropy(logits, labels), moved

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return gradient


def step(
    graph: jp.ChannelGraph, variables: Any, widths: Mapping[Any, Keep], images: Any, labels: Any
) -> None:
    """Prints the time of a step of all widths beside that of the plain networks."""
    networks = partial(train_mode, graph)
    params, rest = slimmable.split(graph, variables, widths)
    gradients = slimmable.gradients(networks, graph, cross_entropy)
    together = jax.jit(partial(gradients, widths=widths))
    batch = {"inputs": images, "targets": labels}
    all_widths = together.lower(params, rest, **batch).compile()
    apart = [
        (jp.slice(graph, variables, keep), jax.jit(plain(networks(keep))))
        for keep in widths.values()
    ]
    programs = [run.lower(small, images, labels).compile() for small, run in apart]

    def one_by_one() -> list[Any]:
        calls = zip(programs, apart, strict=True)
        return [program(small, images, labels) for program, (small, _) in calls]

    flops = sum(program.cost_analysis()["flops"] for program in programs)
    print(f"flops, together / apart: {all_widths.cost_analysis()['flops'] / flops:.3f}")
    more = operations(all_widths)
    for program in programs:
        more.subtract(operations(program))
    print(f"operations more: { ({name: n for name, n in more.items() if n > 0}) }")
    calls = {"apart": one_by_one, "apart again": one_by_one}
    print_times(calls | {"together": lambda: all_widths(params, rest, **batch)}, "apart", rounds=30)


def execution(
    graph: jp.ChannelGraph, variables: Any, widths: Mapping[Any, Keep], images: Any, labels: Any
) -> None:
    """Prints the time of a step with widths drawn for it, by mask beside sliced."""
    private = slimmable.statistics(variables)
    ends = {width: widths[width] for width in (WIDTHS[0], WIDTHS[-1])}
    drawn = {str(width): widths[width] for width in WIDTHS[1:-1]}
    params, rest = slimmable.split(graph, variables, ends, private=private)
    gradients = slimmable.gradients(
        partial(train_mode, graph), graph, cross_entropy, distill=slimmable.distillation()
    )
    sliced = partial(gradients, params, rest, ends | drawn, images, labels)

    @jax.jit
    def program(params: Any, rest: Any, drawn: Any, images: Any, labels: Any) -> Any:
        return gradients(params, rest, ends | drawn, images, labels)

    masked = partial(program, params, rest, drawn, images, labels)
    calls = {"sliced": sliced, "sliced again": sliced, "masked": masked}
    for name in ("sliced", "masked"):
        with compilations() as programs:
            jax.block_until_ready(calls[name]())
        print(f"{name}: {len(programs)} programs")
    print_times(calls, "sliced", rounds=30)


def switching(
    graph: jp.ChannelGraph, variables: Any, widths: Mapping[Any, Keep], images: Any
) -> None:
    """Prints what calls at changing widths compile."""
    params, rest = slimmable.split(graph, variables, widths)

    def network(keep: Keep) -> Any:
        return partial(jp.linen.resize(MODEL, graph, keep).apply, train=False)

    net = slimmable.switch(network, graph, params, rest, widths)
    with compilations() as first:
        for width in widths:
            net.at(width)(images)
    order = np.random.default_rng(0).choice(len(widths), 50)
    with compilations() as later:
        for place in order:
            jax.block_until_ready(net.at(list(widths)[place])(images))
    print(f"programs: {len(first)} for {len(widths)} widths, {len(later)} in 50 switches")


def searching(graph: jp.ChannelGraph, variables: Any, images: Any, labels: Any) -> None:
    """Prints the time of a greedy search beside that of as many forward passes."""
    forward = jax.jit(lambda v, x, y: cross_entropy(train_mode(graph, {})(v, x)[0], y))
    evaluate = slimmable.evaluator(
        partial(train_mode, graph), graph, variables, images, labels, cross_entropy
    )
    forward(variables, images, labels).block_until_ready()
    asked, seconds, plain_seconds = 0, 0.0, 0.0

    def timed(candidates: Any) -> np.ndarray:
        nonlocal asked, seconds, plain_seconds
        start = time.perf_counter()
        found = evaluate(candidates)
        between = time.perf_counter()
        for _ in candidates:
            forward(variables, images, labels).block_until_ready()
        asked += len(candidates)
        seconds += between - start
        plain_seconds += time.perf_counter() - between
        return found

    target = 0.25 * jp.cost.macs(graph)
    with compilations() as first:
        evaluate([jp.widths(graph)])
    with compilations() as later:
        start = time.perf_counter()
        slimmable.greedy(timed, graph, slimmable.space(graph, divisor=4), [target])
        whole = time.perf_counter() - start - plain_seconds
    ratio, alone = whole / plain_seconds, seconds / plain_seconds
    print(f"search: {asked} candidates, {whole:.1f} s, {ratio:.3f} of as many forward passes")
    print(f"their evaluation alone {alone:.3f}; programs: {len(first)}, then {len(later)}")


def main() -> None:
    """Prints the comparisons."""
    graph, variables, images, labels = problem()
    widths = {width: slimmable.prefix(graph, width, divisor=4) for width in WIDTHS}
    step(graph, variables, widths, images, labels)
    execution(graph, variables, widths, images, labels)
    switching(graph, variables, widths, images)
    searching(graph, variables, images, labels)


if __name__ == "__main__":
    main()
