"""Methods that learn gates beside the weights, and cut at the budget by what was learned."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.comparing.bench import Pruned, Work
from experiments.comparing.informed import comparable
from experiments.procedures.dense import sgd
from experiments.runner import precision, training
from experiments.runner.fit import State, Variables
from experiments.runner.task import key
from experiments.runner.training import Forward
from jaxprune.gates.gate_laws import Law


class Gating(NamedTuple):
    """How gates train beside the weights.

    Attributes:
      init: trained beside the weights.
      drawn: (trained, key) -> gates of a step.
      fixed: trained -> gates of evaluation.
      penalty: (trained, number of the step) -> what is added to the loss.
      tx: {label: the optimizer of what has it}.
      labels: of `init`, a tree or its front.
    """

    init: Any
    drawn: Callable[[Any, jax.Array], Mapping[str, Any]]
    fixed: Callable[[Any], Mapping[str, Any]]
    penalty: Callable[[Any, Any], Any]
    tx: Mapping[str, Any]
    labels: Any


class Gated(NamedTuple):
    """A model that runs on {"params": {"weights", "gates"}}, with the gates of evaluation."""

    model: Any
    graph: jp.ChannelGraph
    fixed: Callable[[Any], Mapping[str, Any]]

    def __hash__(self) -> int:
        """Returns that of what does not change."""
        return hash((self.model, self.fixed))

    def apply(self, variables: Variables, images: Any, *, train: bool) -> Any:
        """As `nn.Module.apply`."""
        apply = jp.gated(partial(self.model.apply, train=train), self.graph)
        params = variables["params"]
        own = variables | {"params": params["weights"]}
        return apply(own, self.fixed(params["gates"]), images)


def _trained(work: Work, model: Any, start: Variables, tx: Any, forward: Forward) -> State:
    """Returns the state after the training of the methods that train before they cut."""
    task, how = work.task, work.task.config.train
    size = task.config.batch_size
    return training.fit(
        model,
        start,
        task.dataset,
        tx=tx,
        epochs=how.epochs,
        batch_size=size,
        key=key(task.config, "gates"),
        step=training.step_of(forward, tx, task.dataset, size),
    )


def _weights(work: Work) -> optax.GradientTransformation:
    how = work.task.config.train
    return sgd(how, how.learning_rate(work.bench.steps(how)))


def _learned(work: Work, gating: Gating) -> Variables:
    """Returns the variables after the training of weights and gates."""
    task = work.task
    model = Gated(task.model, work.graph, gating.fixed)
    run = precision.lowered(partial(task.model.apply, train=True, mutable=["batch_stats"]))
    apply = jp.gated(run, work.graph)
    labels = {"weights": "weights", "gates": gating.labels}
    tx = optax.partition({"weights": _weights(work), **gating.tx}, labels)

    def forward(state: State, params: Any, images: Any, labels: Any, noise: Any) -> Any:
        own = state.variables | {"params": params["weights"]}
        logits, mutated = apply(own, gating.drawn(params["gates"], noise), images)
        value = task.loss(logits, labels)
        return value + gating.penalty(params["gates"], state.step), (value, logits, mutated)

    params = {"weights": work.variables["params"], "gates": gating.init}
    start = dict(work.variables) | {"params": params}
    return jax.device_get(_trained(work, model, start, tx, forward).variables)


def _cut(work: Work, variables: Variables, scores: Any, gates: Mapping[str, Any]) -> Pruned:
    """Returns the budget by scores of gates; gates of what stays are folded into the weights."""
    keep = work.budget(scores)
    folded = {name: jnp.where(keep[name], gate, 0.0) for name, gate in gates.items()}
    weights = variables | {"params": variables["params"]["weights"]}
    full = jp.gates.fold(work.graph, weights, folded)
    return Pruned(keep, full, work.task.config.train.epochs)


LAWS: Mapping[str, Callable[[], Law]] = MappingProxyType(
    {"hard_concrete": jp.gates.hard_concrete, "gaussian": jp.gates.gaussian}
)


def lagrangian(work: Work, *, law: str, rate: float = 0.1) -> Pruned:
    """Gates with a distribution, held to the budget by Lagrange multipliers."""
    steps = work.bench.steps(work.task.config.train)
    gates = jp.gates.learned(work.graph, LAWS[law]())
    held = jp.gates.lagrangian(
        work.graph, bounds={jp.cost.macs: work.share}, warmup=max(1, steps // 2)
    )
    ascent = optax.chain(optax.scale(-1.0), optax.adam(rate))
    weight = 1 / work.task.dataset.train.size if law == "gaussian" else 0.0

    def penalty(trained: Any, step: Any) -> Any:
        open_ = gates.open(trained["gates"])
        value = held.penalty(open_, trained["multipliers"], step)
        return value + weight * gates.complexity(trained["gates"])

    gating = Gating(
        init={"gates": gates.init(), "multipliers": held.init()},
        drawn=lambda trained, key: gates.sample(trained["gates"], key),
        fixed=lambda trained: gates.fixed(trained["gates"]),
        penalty=penalty,
        tx={"down": optax.adam(rate), "up": ascent},
        labels={"gates": "down", "multipliers": "up"},
    )
    variables = _learned(work, gating)
    learned = variables["params"]["gates"]["gates"]
    return _cut(work, variables, gates.open(learned), gates.fixed(learned))


def structure_selection(work: Work, *, strength: float = 1e-2, rate: float = 1e-2) -> Pruned:
    """SSS: scales behind every channel, by accelerated proximal gradient on their L1 norm."""
    tx = jp.sparsify.accelerated_l1_gates(strength, learning_rate=rate)
    init = {name: jnp.asarray(gate) for name, gate in jp.gates.unit(work.graph).items()}
    gating = Gating(
        init=init,
        drawn=lambda gates, _: gates,
        fixed=lambda gates: gates,
        penalty=lambda *_: 0.0,
        tx={"gates": tx},
        labels="gates",
    )
    variables = _learned(work, gating)
    gates = variables["params"]["gates"]
    return _cut(work, variables, gates, gates)


def dynamic(work: Work, *, period: int = 4) -> Pruned:
    """GDP: filters closed and opened again by one order of saliency, while all train."""
    graph, task = work.graph, work.task
    apply = precision.lowered(task.model.apply)
    saliency = jp.sparsify.gdp(graph, prune_ratio=1 - work.share**0.5, period=period)

    def forward(state: State, params: Any, images: Any, labels: Any, noise: Any) -> Any:
        del noise
        keep = optax.tree.get(state.opt_state, "keep")
        soft = jp.sparsify.soft_mask(graph, state.variables | {"params": params}, keep)
        logits, mutated = apply(soft, images, train=True, mutable=["batch_stats"])
        value = task.loss(logits, labels)
        return value, (value, logits, mutated)

    tx = optax.chain(saliency, _weights(work))
    found = _trained(work, task.model, work.variables, tx, forward)
    keep = optax.tree.get(found.opt_state, "keep")
    soft = jp.sparsify.soft_mask(graph, found.variables, keep)
    scores = comparable(jp.scores.l2(graph, soft))
    open_ = {name: score + 1.0 * jnp.asarray(keep[name]) for name, score in scores.items()}
    return Pruned(work.budget(open_), jax.device_get(found.variables), task.config.train.epochs)
