"""What training toward a cut costs: a step of every sparsity and of gates, beside the plain step.

Command:   python -m benchmarks.step_time
           python -m benchmarks.step_time --only ssl admm hard_concrete --rounds 40
Device:    CPU, 2 cores, with nothing else on them
Prints, for ResNet-20 on a batch of 64 images of noise, the time of every step as a share of the
plain one, interleaved round by round, and that of a second program which is the plain one again:
what the ratio of two equal programs is tells what a ratio can say.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxprune as jp
from benchmarks.programs import print_times
from benchmarks.resnet20 import MODEL, Problem, problem
from experiments.procedures.sparsifying import SPARSITIES, Given
from experiments.runner import training
from jaxprune.schedule import Training, constant

STEPS = 20
"""Of an epoch: what is done once in an epoch is due in one of so many steps."""
LAWS = {"hard_concrete": jp.gates.hard_concrete, "gaussian": jp.gates.gaussian}
Apply = Callable[[Any, Any, jax.Array, jax.Array], Any]
"""(variables, gates, key, images) -> logits and what mutated."""


def plain(variables: Any, gates: Any, key: jax.Array, images: jax.Array) -> Any:
    """Runs the network as it is."""
    del gates, key
    return MODEL.apply(variables, images, train=True, mutable=["batch_stats"])


def gated(graph: jp.ChannelGraph, learned: Any) -> Apply:
    """Returns what runs the network with gates drawn anew."""
    fn = jp.gated(partial(MODEL.apply, train=True, mutable=["batch_stats"]), graph)

    def apply(variables: Any, gates: Any, key: jax.Array, images: jax.Array) -> Any:
        return fn(variables, learned.sample(gates, key), images)

    return apply


def stepped(
    given: Problem, tx: Any, apply: Apply = plain, gates: Any = None, more: Any = None
) -> Callable[[], Any]:
    """Returns a function that does the next step; a new program each time: nothing is cached.

    Args:
      given: network and batch.
      tx: the optimizer of {"weights", "gates"}.
      apply: runs the network.
      gates: what is learned beside the weights.
      more: (gates) -> what is added to the loss.
    """

    def step(params: Any, rest: Any, state: Any, key: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            variables = {**rest, "params": params["weights"]}
            logits, mutated = apply(variables, params["gates"], key, given.images)
            value = training.cross_entropy(logits, given.labels)
            return value + (more(params["gates"]) if more else 0.0), mutated

        slopes, mutated = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(slopes, state, params)
        return optax.apply_updates(params, updates), mutated, state

    params = {"weights": given.variables["params"], "gates": gates}
    rest = {"batch_stats": given.variables["batch_stats"]}
    held = [(params, rest, tx.init(params))]
    key = jax.random.key(0)
    compiled = jax.jit(step).lower(*held[0], key).compile()

    def call() -> Any:
        held[0] = compiled(*held[0], key)
        return held[0]

    return call


def both(weights: Any, gates: Any = None) -> optax.GradientTransformation:
    """Returns the optimizer of weights and gates."""
    gates = optax.identity() if gates is None else gates
    labels = {"weights": "weights", "gates": "gates"}
    return optax.partition({"weights": weights, "gates": gates}, labels)


def calls(given: Problem, only: tuple[str, ...]) -> Mapping[str, Callable[[], Any]]:
    """Returns {name: a function that does a step}, the plain step twice."""
    sgd = training.sgd(0.01, nesterov=False)
    found = {"plain": stepped(given, both(sgd)), "plain again": stepped(given, both(sgd))}
    for name, sparsity in SPARSITIES.items():
        if not only or name in only:
            how = Training(epochs=1, rates=constant(0.01), strength=sparsity.strength)
            tx = sparsity.optimizer(Given(sgd, how, STEPS, given.graph, 0.3))
            found[name] = stepped(given, both(tx))
    for name, law in LAWS.items():
        if not only or name in only:
            learned = jp.gates.learned(given.graph, law())
            held = jp.gates.lagrangian(given.graph, bounds={jp.cost.macs: 0.5})
            pair = jax.tree.map(jnp.ones_like, held.init())

            def more(gates: Any, learned: Any = learned, held: Any = held, pair: Any = pair) -> Any:
                return held.penalty(learned.open(gates), pair, 0)

            tx = both(sgd, optax.adam(0.1))
            apply = gated(given.graph, learned)
            found[name] = stepped(given, tx, apply, learned.init(), more)
    return found


def main(
    only: Annotated[tuple[str, ...], tyro.conf.arg(name="only")] = (), rounds: int = 80
) -> None:
    """Prints the ratios.

    Args:
      only: names of `--method` of sparse_training, or of gates; all by default.
      rounds: of all steps in turn.
    """
    print_times(calls(problem(), only), "plain", rounds=rounds)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.step_time")
