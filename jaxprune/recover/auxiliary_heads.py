"""Classifiers on what is read inside of a network, which say how much of the classes is there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.errors import JaxpruneError, ResizeError
from jaxprune.gates.evaluation import Marked, evaluate
from jaxprune.gates.sites import UNTAPPED
from jaxprune.graph import ChannelGraph
from jaxprune.program.traits import Form
from jaxprune.recover.readers import Reader, contractions
from jaxprune.running import evaluator
from jaxprune.stats.batch_calls import Calling
from jaxprune.stats.passes import loss_value

Array = Any
Loss = Callable[[Any, Any], Any]
WHERE = "recover.dcp"


class Head(NamedTuple):
    """A linear classifier of the channels of a group, each its mean over positions.

    mean, scale: f32[n], of the channels over the data; they are standardized by that. kernel:
    f32[n, outputs]. bias: f32[outputs].
    """

    mean: Array
    scale: Array
    kernel: Array
    bias: Array

    def __call__(self, pooled: Array) -> Array:
        """Returns f32[examples, outputs], of f32[examples, n]."""
        standard = (pooled - self.mean[None]) / self.scale[None]
        return standard @ self.kernel + self.bias[None]


class Seen(NamedTuple):
    """What a network gives on a batch: its outputs, and inside.

    pooled: {point: f32[examples, n]}. written: {number of a contraction: what it writes}, with a
    leading axis of every scan around it.
    """

    outputs: Any
    pooled: dict[str, Array]
    written: dict[int, Array]


class Watch:
    """The network, watched at points and at readers.

    depths: {point: the number of the last contraction that reads it}, in the order of the program.
    """

    def __init__(
        self, graph: ChannelGraph, points: Sequence[str], call: Calling, fn: Callable[..., Any]
    ):
        self.graph, self.call = graph, call
        self.retraced = evaluator.retracer(fn, graph)
        depths: dict[str, int] = {}
        inside = set[str]()
        for number, (op, sites) in enumerate(contractions(graph)):
            for name in (name for name in points if any(name in site.groups for site in sites)):
                depths[name] = number
                closed = (other.form in UNTAPPED or other.form is Form.SCAN for other in op.around)
                (inside.add if any(closed) else inside.discard)(name)
        if bad := [name for name in points if name not in depths or name in inside]:
            raise JaxpruneError(
                f"{WHERE}: nothing reads the points {bad[:5]}, or a loop is the last that does.\n"
                f"Fix: points={[name for name in graph.groups][:3]}, groups of the graph."
            )
        self.depths = dict(sorted(depths.items(), key=lambda item: item[1]))

    def __call__(self, variables: Any, batch: Any, readers: Sequence[Reader] = ()) -> Seen:
        """Returns what the network gives at the points and writes by the readers."""
        inputs, keywords = self.call(batch)
        keywords = {**keywords, **self.graph.constants}
        here = self.retraced(evaluator.full(self.graph, variables, {}), inputs, keywords)
        ops = contractions(here)
        if len(ops) != len(contractions(self.graph)):
            raise ResizeError(
                "the function has other contractions at these inputs than in the graph.\n"
                "Fix: trace the graph with the function and the input ranks that you run."
            )
        sites = {
            name: next(site for site in ops[number][1] if name in site.groups)
            for name, number in self.depths.items()
        }
        numbers = dict.fromkeys(reader.number for reader in readers)
        marks: list[Any] = [(ops[self.depths[name]][0], name) for name in sites]
        marked: Marked[Any] = Marked([*marks, *((ops[number][0], number) for number in numbers)])

        def leave(op: Any, operands: list[Array], results: list[Array]) -> dict[Any, Any]:
            return {
                mark: operands[sites[mark].operand] if mark in sites else results[0]
                for mark in marked.at(op)
            }

        args = evaluator.operands(variables, inputs, keywords)
        outputs, noted = evaluate(here, marked, args, leave=leave)
        pooled = {}
        for name, site in sites.items():
            channels = site.channels(noted[name], name)
            pooled[name] = channels.reshape(len(channels), -1, channels.shape[-1]).mean(1)
        return Seen(outputs, pooled, {number: noted[number] for number in numbers})


def train_heads(
    watch: Watch, variables: Any, batches: Sequence[Any], loss: Loss, rate: float, passes: int
) -> dict[str, Head]:
    """Returns {point: its head}, trained on the network as it is by SGD from zero."""
    if not watch.depths:
        return {}

    @jax.jit
    def look(variables: Any, batch: Any) -> Any:
        seen = watch(variables, batch)
        return seen.pooled, jnp.asarray(seen.outputs)

    looked = [look(variables, batch) for batch in batches]
    examples, outputs = looked[0][1].shape[0], looked[0][1].shape[1:]
    if len(outputs) != 1 or any(len(x) != examples for x in looked[0][0].values()):
        raise JaxpruneError(
            f"{WHERE}: the network must give [examples, classes], got {list(looked[0][1].shape)}.\n"
            "Fix: fn= that returns the logits alone; points behind layers that keep examples apart."
        )

    def start(name: str) -> Head:
        every = jnp.concatenate([pooled[name] for pooled, _ in looked])
        mean, deviation = every.mean(0), every.std(0)
        scale = jnp.where(deviation > 0, deviation, 1)
        kernel = jnp.zeros((every.shape[1], *outputs), every.dtype)
        return Head(mean, scale, kernel, jnp.zeros(outputs, every.dtype))

    @jax.jit
    def step(heads: dict[str, Head], pooled: Any, batch: Any) -> dict[str, Head]:
        def total(heads: dict[str, Head]) -> Any:
            return sum(loss_value(loss(heads[name](pooled[name]), batch)) for name in heads)

        slopes = jax.grad(total)(heads)
        return {
            name: head._replace(
                kernel=head.kernel - rate * slopes[name].kernel,
                bias=head.bias - rate * slopes[name].bias,
            )
            for name, head in heads.items()
        }

    heads = {name: start(name) for name in watch.depths}
    for _ in range(passes):
        for (pooled, _), batch in zip(looked, batches, strict=True):
            heads = step(heads, pooled, batch)
    return heads
