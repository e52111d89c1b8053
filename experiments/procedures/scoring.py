"""The scores that `--score` names: of weights alone, or measured on batches of training images."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import data
from experiments.data.augment import normalized
from experiments.runner.fit import Variables
from experiments.runner.task import Task
from jaxprune.stats import At, Curvature, Statistic

BATCHES, SIZE = 4, 64
"""How many batches of training images a score is measured on, and how many images each has."""


class Given(NamedTuple):
    """What a score may look at."""

    task: Task
    graph: jp.ChannelGraph  # of the variables, which may be cut already
    variables: Variables
    key: jax.Array


Scoring = Callable[[Given], Mapping[str, Any]]
"""-> {group: f32[n]}, higher means keep; groups that the score does not cover are absent."""


def _of_weights(score: Callable[..., Mapping[str, Any]]) -> Scoring:
    return lambda given: score(given.graph, given.variables)


def _of_activations(score: Callable[..., Mapping[str, Any]], statistic: Statistic) -> Scoring:
    """Reads `score(graph, result of the statistic)`."""

    def scores(given: Given) -> Mapping[str, Any]:
        images = [images for images, _ in _batches(given.task)]
        found = jp.stats.collect(given.graph, given.variables, images, {"found": statistic})
        return score(given.graph, found["found"])

    return scores


def _of_losses(
    score: Callable[..., Mapping[str, Any]], *statistics: Statistic | Curvature
) -> Scoring:
    """Reads `score(graph, *results of the statistics)`, all measured in one pass."""
    named = {str(number): statistic for number, statistic in enumerate(statistics)}

    def scores(given: Given) -> Mapping[str, Any]:
        found = jp.stats.collect(
            given.graph,
            given.variables,
            _batches(given.task),
            named,
            loss=lambda outputs, batch: given.task.loss(outputs, batch[1]),
            key=given.key,
        )
        return score(given.graph, *(found[name] for name in named))

    return scores


def _of_gradients(score: Callable[..., Mapping[str, Any]]) -> Scoring:
    """Reads `score(graph, variables, gradients)` of the sum of the losses of all batches."""

    def scores(given: Given) -> Mapping[str, Any]:
        graph, variables = given.graph, given.variables

        @jax.jit
        def gradient(variables: Variables, images: jax.Array, labels: jax.Array) -> Variables:
            def loss(params: Any) -> jax.Array:
                outputs = graph.fn(variables | {"params": params}, images)
                return given.task.loss(outputs, labels)

            return jax.grad(loss)(variables["params"])

        parts = [gradient(variables, *batch) for batch in _batches(given.task)]
        still = jax.tree.map(jnp.zeros_like, variables)  # running statistics are not trained
        gradients = jax.tree.map(lambda *each: sum(each), *parts)
        return score(graph, variables, still | {"params": gradients})

    return scores


def _batches(task: Task) -> list[tuple[jax.Array, jax.Array]]:
    """Returns images, normalized and not augmented, with their labels; the same for one seed."""
    dataset = task.dataset
    found = data.examples(dataset.train, size=SIZE, count=BATCHES, seed=task.config.seed)
    return [
        (normalized(dataset.mean, dataset.std, jnp.asarray(images)), jnp.asarray(labels))
        for images, labels in found
    ]


SCORES: Mapping[str, Scoring] = MappingProxyType(
    {
        "l1": _of_weights(jp.scores.l1),
        "l2": _of_weights(jp.scores.l2),
        "bn_scale": _of_weights(jp.scores.bn_scale),
        "channel_energy": _of_weights(jp.scores.channel_energy),
        "fpgm": _of_weights(jp.scores.fpgm),
        "redundancy": _of_weights(
            lambda graph, variables: jp.scores.redundancy(
                graph, jp.scores.filter_similarity(graph, variables)
            )
        ),
        "random": lambda given: jp.scores.random(given.graph, given.key),
        "apoz": _of_activations(jp.scores.apoz, jp.stats.zero_share()),
        "mean_activation": _of_activations(
            jp.scores.mean_activation, jp.stats.mean_size(at=At.AFTER)
        ),
        "activation_norm": _of_activations(jp.scores.activation_norm, jp.stats.activation_norm()),
        "wanda": _of_activations(jp.scores.wanda, jp.stats.weighted_norm()),
        "thinet": _of_activations(jp.scores.thinet, jp.stats.contributions()),
        "lasso": _of_activations(jp.scores.lasso, jp.stats.contributions()),
        "fisher": _of_losses(jp.scores.fisher, jp.stats.mean_square(at=At.EXAMPLES)),
        "taylor_squared": _of_losses(jp.scores.taylor_squared, jp.stats.mean_square(at=At.GATES)),
        "taylor_second_order": _of_losses(
            jp.scores.taylor_second_order, jp.stats.mean(at=At.GATES), jp.stats.hutchinson()
        ),
        "obd_gates": _of_losses(jp.scores.obd_gates, jp.stats.hutchinson()),
        "taylor": _of_gradients(jp.scores.taylor),
        "taylor_bn": _of_gradients(jp.scores.taylor_bn),
        "taylor_members": _of_gradients(jp.scores.taylor_members),
    }
)
"""Name -> the scores of `jp.scores` of that name, which says what each is."""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    return [] if name in SCORES else [f"score={name!r} is not one of {', '.join(SCORES)}"]


def scores(name: str, given: Given) -> Mapping[str, Any]:
    """Returns the scores of that name, {group: f32[n]}.

    Raises:
      ScoreError: the network has no group that the score covers.
    """
    return SCORES[name](given)
