"""Methods that cut the dense network as it stands: by scores, and by what makes up for the cut."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

import jaxprune as jp
from experiments.comparing.bench import Pruned, Work
from experiments.procedures import recovering, restarting, scoring
from experiments.runner.fit import Variables
from experiments.runner.task import initial, key
from jaxprune.keep.check import Keep

Scope = Literal["layer", "global"]
"""The same share of every group; or one order of all channels, normalized group by group."""


def given(work: Work, variables: Variables | None = None) -> scoring.Given:
    """Returns what a score and a reconstruction may look at."""
    chosen = work.variables if variables is None else variables
    return scoring.Given(work.task, work.graph, chosen, key(work.task.config, "scores"))


def selected(work: Work, scores: Mapping[str, Any], scope: Scope) -> Keep:
    """Returns what scores keep within the budget."""
    return work.budget(comparable(scores, scope))


def comparable(scores: Mapping[str, Any], scope: Scope = "layer") -> dict[str, Any]:
    """Returns scores in one order of all groups, as the scope asks."""
    by = ranks if scope == "layer" else jp.scores.euclidean
    return jp.scores.normalized(scores, by=by)


def ranks(scores: Any) -> Any:
    """Returns the place of every channel in its group, from the lowest up, as a share.

    >>> ranks(np.array([0.3, 0.1, 0.2])).tolist()
    [1.0, 0.3333333333333333, 0.6666666666666666]
    """
    order = np.argsort(np.argsort(scores, axis=-1, kind="stable"), axis=-1)
    return (order + 1) / np.shape(scores)[-1]


def alike(work: Work) -> Keep:
    """Returns a keep within the budget with the same share of every group, whichever channels."""
    sizes = {name: group.shape for name, group in work.graph.groups.items()}
    return work.budget(
        {
            n: np.broadcast_to(np.arange(s[-1], 0, -1) / s[-1], s).astype(float)
            for n, s in sizes.items()
        }
    )


def scored(work: Work, *, score: str, scope: Scope, recover: str = recovering.NONE) -> Pruned:
    """Cuts the channels of the lowest score."""
    asked = given(work)
    place = ("scores", score, work.task.config.seed)
    scores = work.bench.once(place, lambda: jax.device_get(scoring.scores(score, asked)))
    keep = selected(work, scores, scope)
    return Pruned(*recovering.recovered(recover, asked, keep))


def chosen(work: Work, *, recover: str) -> Pruned:
    """Cuts what the reconstruction chooses, the same share of every group."""
    return Pruned(*recovering.recovered(recover, given(work), alike(work)))


def layer_by_layer(work: Work, *, score: str, recover: str) -> Pruned:
    """Cuts group after group: each is scored behind what went before, and made up for."""
    widths = jp.widths(work.graph, alike(work))
    variables, keep = work.variables, dict[str, Any]()
    for name, group in work.graph.groups.items():
        if widths[name] == group.size:
            continue
        asked = given(work, variables)
        scores = np.asarray(scoring.scores(score, asked)[name])
        each = {name: ranks(scores) > 1 - widths[name] / group.size + 1e-9}
        each, variables = recovering.recovered(recover, asked, each)
        variables = jp.mask(work.graph, variables, each)
        keep |= {name: each[name]}
    return Pruned(keep, variables)


def before_training(work: Work, *, score: str, scope: Scope) -> Pruned:
    """Cuts the network before it has trained, and trains what is left as the dense one was."""
    start = initial(work.task).variables
    keep = selected(work, scoring.scores(score, given(work, start)), scope)
    return Pruned(keep, start, retrain=work.task.config.dense.epochs)


def anew(work: Work, *, retrain: restarting.Retrain, score: str = "l1") -> Pruned:
    """Cuts by a score, and trains what is left from other weights, as the dense one was."""
    keep = selected(work, scoring.scores(score, given(work)), "layer")
    how = restarting.epochs(retrain, work.task.config.dense.epochs, work.bench.left(keep))
    if retrain == "rewind":
        return Pruned(keep, initial(work.task).variables, retrain=how)
    model = jp.linen.resize(work.task.model, work.graph, keep)
    again = key(work.task.config, retrain)
    args: Any = (retrain, work.task, model, work.variables, keep, again)
    return Pruned(keep, work.variables, retrain=how, fresh=restarting.restarted(*args))


def without_branches(work: Work) -> Pruned:
    """Takes whole branches out, as long as the budget needs more, and then channels by norm."""
    graph = work.graph
    images, labels = scoring.batches(work.task)[0]
    fn = jp.gated(graph.fn, graph)

    def loss(gates: Any) -> Any:
        return work.task.loss(fn(work.variables, gates, images), labels)

    gone: Keep = {}
    for number in range(1, len(jp.branches(graph)) + 1):
        keep = jp.select.depth(graph, loss, remove=number)
        if work.bench.left(keep) < work.share:
            break
        gone = keep
    scores = comparable(jp.scores.l2(graph, work.variables))
    return Pruned(within(work, scores, gone), work.variables)


def within(work: Work, scores: Mapping[str, Any], gone: Keep) -> Keep:
    """Returns what scores keep within the budget of a network without some branches."""
    low, high = work.share, 1.0
    out = {name: kept for name, kept in gone.items() if not np.all(kept)}
    while high - low > 1e-3:  # the share of the whole network at which the rest is in the budget
        middle = (low + high) / 2
        keep = {**work._replace(share=middle).budget(scores), **out}
        low, high = (middle, high) if work.bench.left(keep) <= work.share else (low, middle)
    return {**work._replace(share=low).budget(scores), **out}
