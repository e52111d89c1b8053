"""Losses by which a pruned network learns from the dense one: its logits, and what is inside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_positive, check_share
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import check_keep

Loss = Callable[[Any, Any], Any]
"""`(outputs, targets) -> scalar`."""
Distilled = Callable[[Any, Any, Any], Any]
"""`(outputs, teacher's outputs, targets) -> scalar`."""
Features = Mapping[str, Sequence[Any]]
"""{group: what the contractions that sum over it read, [..., n]}, as `jp.tap` hands them out."""


def distillation(
    *, temperature: float = 1.0, mix: float = 1.0, loss: Loss | None = None
) -> Distilled:
    """Returns the loss of a network that learns from the logits of another, f32[].

      mix * T^2 * KL(softmax(teacher / T) || softmax(outputs / T)) + (1 - mix) * loss

    over the last axis, the mean over all others; zero for equal logits where mix is 1. It takes
    `(outputs, teacher, targets)`, and no gradient goes to the teacher. It is the loss of any
    recovery: of a sliced network, of a masked or gated one, between two prunings or at the end.

    Args:
      temperature: T, above 0.
      mix: share of the soft loss, in [0, 1].
      loss: `(outputs, targets) -> scalar`, the loss of labels, where mix is below 1.

    Raises:
      JaxpruneError: an argument is out of range, or `loss` is missing or has no effect; when it is
        called: the shapes of the two networks' logits differ.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2; forward
    KL alone is what Muralidharan et al., "Compact Language Models via Pruning and Knowledge
    Distillation", NeurIPS 2024, recover with.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> taught = jp.recover.distillation(temperature=2.0)
    >>> teacher = jnp.array([[0.0, 2.0]])
    >>> float(taught(teacher, teacher, None)), float(taught(jnp.zeros((1, 2)), teacher, None)) > 0
    (0.0, True)
    """
    where = "distillation"
    temperature, mix = check_mixture(where, temperature, mix, loss)

    def taught(outputs: Any, teacher: Any, targets: Any = None) -> jax.Array:
        _check_alike("the logits", outputs, teacher)
        sides = (jnp.asarray(each) for each in (teacher, outputs))
        soft, learned = (jax.nn.log_softmax(wide(each) / temperature) for each in sides)
        soft = jax.lax.stop_gradient(soft)
        divergence = optax.losses.kl_divergence_with_log_targets(learned, soft)
        value = mix * temperature**2 * divergence.mean()
        return value if loss is None else value + (1 - mix) * loss(outputs, targets)

    return taught


def feature_loss(
    graph: ChannelGraph,
    keep: Mapping[str, Any] | None = None,
    *,
    distance: Callable[[Any, Any], Any] = optax.losses.squared_error,
) -> Callable[[Features, Features], jax.Array]:
    """Returns the loss of what is inside of a network against the dense one, f32[].

      sum over groups and the contractions that read them of the mean of distance(own, teacher's)

    It takes `(features, teacher's features)` of the same groups, as `jp.tap` hands them out. The
    teacher's channels that are pruned are left out, and those of a masked or gated student too. No
    gradient goes to the teacher. The groups are the named points: a stream, a hidden width.

    Args:
      graph: of the dense network.
      keep: {group: bool[n]}, what is left of it; None or absent groups are whole.
      distance: elementwise, of two arrays of one shape to such an array.

    Raises:
      KeepError: `keep` does not fit the graph.
      JaxpruneError: `distance` is not a function; when it is called: the groups or the shapes of
        the two networks do not belong together.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2; there a
    regressor maps the student to the teacher's width, here the kept channels are the student's.

    >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
    >>> v, x = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}, jnp.ones((4, 2))
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> graph = jp.trace(fn, v, x)
    >>> keep = {"a": np.array([True, False, True])}
    >>> small = jp.slice(graph, v, keep)
    >>> small["a"] = 2 * small["a"]
    >>> teacher = jp.tap(fn, graph, ["a"])(v, x)[1]
    >>> student = jp.tap(fn, jp.trace(fn, small, x), ["a"])(small, x)[1]
    >>> float(jp.recover.feature_loss(graph, keep)(student, teacher))
    4.0
    """
    masks = check_keep(graph, {} if keep is None else keep)
    check_callable(distance, "distance", "distance=optax.losses.squared_error.")

    def loss(features: Features, teacher: Features) -> jax.Array:
        pairs = list(_pairs(graph, features, teacher))
        if not pairs:
            raise JaxpruneError(
                "feature_loss: there are no features.\nFix: jp.tap(fn, graph, groups)."
            )
        total = jnp.zeros(())
        for name, *sides in pairs:
            learned, taught = map(wide, _kept(name, graph, masks, *sides))
            total += jnp.mean(distance(learned, jax.lax.stop_gradient(taught)))
        return total

    return loss


def check_mixture(where: str, temperature: Any, mix: Any, loss: Any) -> tuple[float, float]:
    """Returns the temperature and the share of the soft loss.

    Raises:
      JaxpruneError: one is out of range, or the loss of labels is missing or has no effect.
    """
    temperature = check_positive(temperature, f"{where}: temperature", "temperature=1.0.")
    mix = check_share(mix, f"{where}: mix", "mix=1.0, no labels.")
    check_callable(loss, f"{where}: loss", "lambda outputs, targets: a scalar.", optional=True)
    if (mix < 1) != (loss is not None):
        raise JaxpruneError(
            f"{where}: with mix={mix} the loss of the labels "
            + ("is missing" if mix < 1 else "has no effect")
            + ".\nFix: give loss where mix is below 1, and there alone."
        )
    return temperature, mix


def _pairs(graph: ChannelGraph, features: Any, teacher: Any) -> Any:
    """Yields (group, the student's features, the teacher's).

    Raises:
      JaxpruneError: they are not of the same groups, or not as many of one.
    """
    example = "{group: arrays}, what jp.tap hands out"
    for name, given in (("features", features), ("teacher", teacher)):
        check_mapping(given, f"feature_loss: {name}", example, JaxpruneError)
        if unknown := [group for group in given if group not in graph.groups]:
            raise JaxpruneError(
                f"feature_loss: {name} name {unknown[:5]}, which are no groups of the graph.\n"
                "Fix: jp.tap(fn, graph, groups) of both networks."
            )
    if features.keys() != teacher.keys():
        raise JaxpruneError(
            f"feature_loss: the student has features of {list(features)}, the teacher of "
            f"{list(teacher)}.\nFix: jp.tap(fn, graph, groups) of the same groups of both."
        )
    for group in features:
        sides = features[group], teacher[group]
        counts = [len(each) if isinstance(each, Sequence) else None for each in sides]
        if None in counts or counts[0] != counts[1]:
            raise JaxpruneError(
                f"feature_loss: group {group!r} has {counts[0]} arrays of features, the teacher "
                f"{counts[1]}.\nFix: {example} of one network at two widths."
            )
        yield from ((group, *pair) for pair in zip(*sides, strict=True))


def _kept(
    name: str, graph: ChannelGraph, masks: Mapping[str, Any], student: Any, teacher: Any
) -> tuple[Any, Any]:
    """Returns both features at the kept channels.

    Raises:
      JaxpruneError: the student has neither the kept width nor the full one.
    """
    size = graph.groups[name].size
    mask = np.broadcast_to(masks.get(name, np.ones(size, bool)), graph.groups[name].shape)
    places = np.stack([np.flatnonzero(row) for row in np.atleast_2d(mask)])
    layers = graph.groups[name].shape[:-1]
    _check_width(name, "the teacher's features", teacher, (size,), layers)
    _check_width(name, "features", student, (places.shape[1], size), layers)
    teacher = _take(teacher, places)
    student = student if student.shape[-1] == places.shape[1] else _take(student, places)
    _check_alike(f"features of group {name!r}", student, teacher)
    return student, teacher


def _take(values: Any, places: np.ndarray) -> Any:
    """The channels at these places of the last axis, of every layer its own."""
    if len(places) == 1:
        return jnp.take(values, places[0], axis=-1)
    return jax.vmap(lambda row, at: jnp.take(row, at, axis=-1))(values, places)


def _check_width(
    name: str, what: str, values: Any, sizes: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    shape = getattr(values, "shape", None)
    if not shape or shape[-1] not in sizes or shape[:-1][: len(layers)] != layers:
        first = f", their first the {layers[0]} layers of the stack" if layers else ""
        raise JaxpruneError(
            f"feature_loss: {what} of group {name!r} are {kind_of(values)}; their last axis "
            f"must be one of {sorted(set(sizes))} channels{first}.\n"
            "Fix: jp.tap of the dense network and of the one that keep leaves."
        )


def _check_alike(what: str, student: Any, teacher: Any) -> None:
    shapes = [getattr(each, "shape", None) for each in (student, teacher)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise JaxpruneError(
            f"{what} are {kind_of(student)}, those of the teacher {kind_of(teacher)}.\n"
            "Fix: run both networks on the same inputs."
        )
