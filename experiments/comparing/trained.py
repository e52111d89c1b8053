"""Methods that train toward the cut, from the dense network: penalties, soft masks, rounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import jaxprune as jp
from experiments.comparing.bench import Pruned, Work
from experiments.comparing.informed import Scope, comparable, given, selected
from experiments.methods import gate_decorator, sparse_training
from experiments.procedures import kept_rounds, recovering, rounds, scoring
from experiments.procedures.rounds import Method, Score, State
from experiments.report import results
from experiments.runner.fit import Journal, Variables
from experiments.runner.task import Network
from jaxprune.schedule import Part, Phase, Plan, Prune, Training

_DENSE = Phase(kind="dense", number=1, rounds=0, milestone=0)


def followed(work: Work, method: Method, start: Variables | None = None) -> Pruned:
    """Returns what the phases of a method leave before its first commit.

    Args:
      work: what is asked for; its run keeps the phases.
      method: the procedure, without fine-tuning.
      start: variables in the place of the dense ones.
    """
    method = method._replace(plan=_uncut(method.plan))
    variables = work.variables if start is None else start
    begin = State(work.task.model, variables, method.begin(work.graph), (), _DENSE)
    state = kept_rounds.follow(work.run, method, begin)
    epochs = sum(record["epochs"] for record in state.records)
    closed = rounds.network(method, state).variables
    return Pruned(state.progress.total, closed, epochs)


def _uncut(plan: Plan) -> Plan:
    """Returns the plan up to its first commit."""

    def until(done: Phase | None, left: float) -> Phase | None:
        phase = plan(done, left)
        return None if phase is not None and phase.commit else phase

    return until


def sparse(
    work: Work, *, method: str, strength: float | None = None, rescale: float | None = None
) -> Pruned:
    """Trains with a sparsity of experiments/procedures/sparsifying.py, and cuts once."""
    config = work.task.config
    asked = sparse_training.Config(
        method=method,
        strength=strength,
        keep_macs=work.share,
        min_keep_ratio=config.min_keep_ratio,
        dense=config.dense,
        train=config.train,
        finetune=(),
    )
    start = None
    if rescale is not None:
        images, _ = scoring.batches(work.task)[0]
        start = jp.sparsify.rescale_scales(work.graph, work.variables, rescale, images)
    return followed(work, sparse_training.method(asked), start)


def in_rounds(
    work: Work, *, score: str, scope: Scope, recover: str = recovering.NONE, power: float = 3.0
) -> Pruned:
    """Trains an epoch, cuts a part, and so on: the MACs fall along a ramp, fast at first."""
    how, share = work.task.config.train, work.share
    read = scoring.reader(score)

    def scores(*args: Any) -> Any:
        return comparable(read(*args), scope)

    method = Method(
        plan=ramp(share, how.epochs, replace(how, epochs=1), power),
        dense=how,
        score=Score(scores),
        recover=recovering.after(recover),
        begin=_beginning(work),
    )
    return followed(work, method)


def tick_tock(work: Work, *, ticks: int = 4, tocks: int = 2) -> Pruned:
    """Gate Decorator: Ticks that score and cut, with Tocks between, as many epochs as `train`."""
    config = work.task.config
    tick = Training(epochs=1, rates=((0.0, 1e-3),), part=Part.GATES, data=0.25)
    tock = replace(config.train, epochs=max(1, config.train.epochs // tocks), strength=1e-3)
    share = 1 - work.share ** (1 / (ticks * tocks + 2))  # some Ticks cut few MACs
    asked = gate_decorator.Config(
        keep_macs=(work.share,),
        min_keep_ratio=config.min_keep_ratio,
        share=share,
        ticks=ticks,
        dense=config.dense,
        tick=tick,
        tock=tock,
        finetune=(),
    )
    return followed(work, gate_decorator.method(asked))


def trained_on(work: Work, *, score: str, scope: Scope) -> Pruned:
    """Trains on without any penalty, and cuts by a score: what the epochs alone are worth."""
    how, whole = work.task.config.train, Network(work.task.model, work.variables, {})
    variables = _trained(work, whole, how, "train").variables
    keep = selected(work, scoring.scores(score, given(work, variables)), scope)
    return Pruned(keep, variables, how.epochs)


def feedback(work: Work, *, tolerance: float = 0.01, share: float = 0.2) -> Pruned:
    """Play and Prune: what of the accuracy is to spare decides how much goes in a round.

    A round cuts `share` times the slack of what is above the budget, by the L1 norm, and trains an
    epoch; the slack is 1 where nothing is lost and 0 at the tolerance. The last round goes all the
    way. The paper's penalty, which follows the same slack, is left out.
    """
    task, how, graph = work.task, work.task.config.train, work.graph
    network = Network(task.model, work.variables, {})
    base, left = results.accuracy(task, network, task.dataset.validation), 1.0
    for number in range(how.epochs):
        now = results.accuracy(task, network, task.dataset.validation)
        slack = (now - base + tolerance) / tolerance
        gone = share * float(np.clip(slack, 0, 1)) * (1 - work.share)
        left = max(work.share, left - gone)
        if number == how.epochs - 1:
            left = work.share
        scores = comparable(jp.scores.l1(graph, network.variables))
        keep = work._replace(share=left).budget(scores) if left < 1 else {}
        masked = work.bench.masked(network.variables, keep)
        network = _trained(work, masked, replace(how, epochs=1), f"play-{number}")
    return Pruned(network.keep, network.variables, how.epochs)


def _trained(work: Work, network: Network, how: Training, name: str) -> Network:
    """Returns the network after a training that the run keeps."""

    def made(journal: Journal) -> Network:
        return work.bench.trained(work.task, network, how, name, journal=journal)

    return work.run.network(name, made, network.keep)


def _beginning(work: Work) -> Callable[[jp.ChannelGraph], Any]:
    floor = work.task.config.min_keep_ratio

    def begin(graph: jp.ChannelGraph) -> Any:
        return jp.schedule.begin(graph, keep_macs=work.share, min_keep_ratio=floor)

    return begin


def ramp(share: float, count: int, training: Training, power: float) -> Plan:
    """Returns the plan of `count` rounds after which `share` of the MACs is left."""

    def plan(done: Phase | None, left: float) -> Phase | None:
        del left
        number = (done.rounds if done else 0) + 1
        if number > count:
            return None
        gone = (1 - share) * (1 - (1 - number / count) ** power)
        prune = Prune(keep_macs=share if number == count else 1 - gone)
        return Phase(
            kind="ramp",
            number=number,
            rounds=number,
            milestone=0,
            training=training,
            prune=prune,
        )

    return plan
