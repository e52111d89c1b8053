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
        return score(given.graph, _measured(given, statistic))

    return scores


def _measured(given: Given, statistic: Statistic) -> Any:
    images = [images for images, _ in batches(given.task)]
    return jp.stats.collect(given.graph, given.variables, images, {"found": statistic})["found"]


def _entropy(given: Given) -> Mapping[str, Any]:
    """In two passes, of which the first finds the range of every channel."""
    ends = _measured(given, jp.stats.extremes())
    return jp.scores.entropy(given.graph, _measured(given, jp.stats.histogram(bins=32, range=ends)))


def _nisp(given: Given) -> Mapping[str, Any]:
    """From the infinite feature selection of what the head reads."""
    graph, variables = given.graph, given.variables
    part = jp.schedule.Part.GATES  # the head, and BatchNorms, which have no kernels
    trains, _ = jax.tree.flatten_with_path(jp.schedule.trainable(graph, variables, part))
    shapes = jax.tree.leaves(variables["params"])
    heads = {
        "/".join(["params", *(key.key for key in keys)])
        for (keys, on), leaf in zip(trains, shapes, strict=True)
        if on and leaf.ndim > 1
    }
    read = [
        name
        for name, group in graph.groups.items()
        if any(slot.role == "in" and slot.path in heads for slot in group.slots)
    ]
    images, _ = batches(given.task)[0]
    taps = jax.jit(jp.tap(graph.fn, graph, groups=read))(variables, images)[1]
    last = {
        name: jp.scores.inf_fs(found[-1].reshape(-1, graph.groups[name].size))
        for name, found in taps.items()
    }
    return jp.scores.nisp(graph, variables, last)


def _of_losses(
    score: Callable[..., Mapping[str, Any]], *statistics: Statistic | Curvature
) -> Scoring:
    """Reads `score(graph, *results of the statistics)`, all measured in one pass."""
    named = {str(number): statistic for number, statistic in enumerate(statistics)}

    def scores(given: Given) -> Mapping[str, Any]:
        found = jp.stats.collect(
            given.graph,
            given.variables,
            batches(given.task),
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

        parts = [gradient(variables, *batch) for batch in batches(given.task)]
        still = jax.tree.map(jnp.zeros_like, variables)  # running statistics are not trained
        gradients = jax.tree.map(lambda *each: sum(each), *parts)
        return score(graph, variables, still | {"params": gradients})

    return scores


def batches(task: Task) -> list[tuple[jax.Array, jax.Array]]:
    """Returns training images, not augmented, with their labels; the same for one seed."""
    return examples(task, task.dataset.train, size=SIZE, count=BATCHES)


def examples(task: Task, split: Any, *, size: int, count: int) -> list[tuple[jax.Array, jax.Array]]:
    """Returns batches of images of a split, not augmented, with labels; the same for one seed."""
    dataset = task.dataset
    found = data.examples(split, size=size, count=count, seed=task.config.seed)
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
        "fluctuation": _of_activations(jp.scores.wanda, jp.stats.weighted_variance()),
        "entropy": _entropy,
        "nisp": _nisp,
        "obs": _of_activations(jp.scores.obs, jp.stats.removal_costs()),
        "thinet": _of_activations(jp.scores.thinet, jp.stats.contributions()),
        "lasso": _of_activations(jp.scores.lasso, jp.stats.contributions()),
        "fisher": _of_losses(jp.scores.fisher, jp.stats.mean_square(at=At.EXAMPLES)),
        "taylor_activation": _of_losses(lambda _, sizes: sizes, jp.stats.mean_size(at=At.EXAMPLES)),
        "snip": _of_losses(jp.scores.snip, jp.stats.sum(at=At.GATES)),
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
"""Name -> the scores of `jp.scores` of that name, which says what each is; `fluctuation` is `wanda`
of `jp.stats.weighted_variance`, and `snip` is taken where the network stands."""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    return [] if name in SCORES else [f"score={name!r} is not one of {', '.join(SCORES)}"]


def scores(name: str, given: Given) -> Mapping[str, Any]:
    """Returns the scores of that name, {group: f32[n]}.

    Raises:
      ScoreError: the network has no group that the score covers.
    """
    return SCORES[name](given)


def reader(name: str) -> Callable[..., Mapping[str, Any]]:
    """Returns `read` of a `rounds.Score` that is measured anew at every pruning."""

    def read(
        graph: jp.ChannelGraph, variables: Variables, tally: Any, key: jax.Array, task: Task
    ) -> Mapping[str, Any]:
        del tally
        return scores(name, Given(task, graph, variables, key))

    return read
