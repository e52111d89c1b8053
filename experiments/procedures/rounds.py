"""Pruning in rounds, as a plan of `jaxprune.schedule` says: the loop of Gate Decorator and OICSR.

Pure functions from state to state; `experiments.procedures.kept_rounds` keeps them on the disk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

import jaxprune as jp
from experiments.procedures import restarting, starting
from experiments.procedures.distilling import Distill
from experiments.procedures.restarting import Retrain
from experiments.procedures.scoring import Given
from experiments.report import results
from experiments.runner import processes, training
from experiments.runner.config import Common
from experiments.runner.fit import QUIET, Journal, Variables
from experiments.runner.task import Network, Task, key
from experiments.runner.training import Gather, Step
from jaxprune.schedule import Part, Phase, Plan, Progress, Prune, Tally, Training

Record = dict[str, Any]
Transform = optax.GradientTransformation


class Score(NamedTuple):
    """Where the scores of a pruning come from."""

    read: Callable[[jp.ChannelGraph, Variables, Tally | None, jax.Array, Task], Mapping[str, Any]]
    """(graph, variables that train, tally, key, task) -> {group: f32[n]}."""
    gather: Callable[[Any, jp.ChannelGraph], Gather] | None = None
    """(model, graph) -> what a step adds to the tally; None for scores that need no batch."""
    groups: Callable[[jp.ChannelGraph], Iterable[str]] = lambda graph: graph.groups
    """Those that have scores."""


Recover = Callable[[jp.ChannelGraph, Variables, Mapping[str, Any], jax.Array, Task], Any]
"""(graph, variables before a pruning, keep, key, task) -> keep, variables to be masked by it."""


Allocate = Callable[[Progress, Prune, Mapping[str, Any], Given, Path | None], Mapping[str, Any]]
"""(progress, how far it goes, scores, the network, a journal of losses) -> keep of its channels."""


Wrap = Callable[[Transform, Training, int, jp.ChannelGraph], Transform]
"""(SGD, how it trains, steps of an epoch, graph) -> the optimizer. It sees no weights, which differ
after an interruption: what depends on them belongs in its state."""


class Method(NamedTuple):
    """What tells one procedure from another.

    Attributes:
      plan: what comes next, of `jaxprune.schedule`.
      dense: how the network trains before the plan begins; None where it does not.
      start: the finished run of `experiments dense` with whose network it begins; none begins anew.
      score: of the channels; the lowest go.
      allocate: says how much of every group stays, in place of the scores of all together.
      journals: where it keeps the losses that it measured, so that it goes on after a kill.
      recover: what makes up for a pruning, if anything does.
      begin: graph -> the progress before any pruning, with what it obeys.
      penalty: what a training with a strength puts in front of the momentum.
      wrap: what it makes of SGD, if the place is another or the steps of an epoch matter.
      decorated: whether gates stand for the BatchNorms, until the fine-tuning.
      finetune_batch_size: images in a step of the fine-tuning, if it differs.
      retrain: from which weights, and how long, the network trains once it is cut.
      distill: what the fine-tuning learns from the dense network, if anything.
    """

    plan: Plan
    dense: Training | None
    score: Score
    allocate: Allocate | None = None
    journals: Path | None = None
    recover: Recover | None = None
    begin: Callable[[jp.ChannelGraph], Progress] = jp.schedule.begin
    penalty: Callable[[Training, jp.ChannelGraph, Variables], Transform] | None = None
    wrap: Wrap | None = None
    decorated: bool = False
    finetune_batch_size: int | None = None
    retrain: Retrain = "finetune"
    distill: Distill | None = None
    start: Path | None = None


class Use(NamedTuple):
    """What a training depends on besides the network; equal ones share a program."""

    training: Training
    gathers: bool  # scores
    gated: bool  # whether the variables are in the Gate Decorator's form
    batch_size: int
    groups: tuple[str, ...] | None  # whose readers train
    distill: Distill | None


Programs = Callable[[Use], tuple[Any, Step]]


class State(NamedTuple):
    """Where a run stands after a phase, on the host."""

    model: Any  # what the last commit left
    variables: Variables  # those that train; pruned channels are zero
    progress: Progress
    records: tuple[Record, ...] = ()  # one for every finished phase
    done: Phase | None = None
    teacher: Variables | None = None  # the dense ones, where a fine-tuning learns from them


During = Callable[[State, Phase], AbstractContextManager[Journal]]


class Decorated(NamedTuple):
    """A model that runs on variables in the Gate Decorator's form."""

    model: Any

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.apply`."""
        return self.model.apply(jp.gates.melt(variables), *args, **kwargs)


def scaled(config: Common, *trainings: Training) -> tuple[Training, ...]:
    """Returns the trainings with their epochs at the scale of the configuration."""
    return tuple(replace(each, epochs=config.scaled(each.epochs)) for each in trainings)


def after_dense(dense: Training | None, plan: Plan) -> Plan:
    """Returns the plan that trains the dense network before it follows `plan`."""

    def whole(done: Phase | None, left: float) -> Phase | None:
        if done is None:
            return Phase(kind="dense", number=1, rounds=0, milestone=0, training=dense)
        return plan(None if done.kind == "dense" else done, left)

    return whole


def still(plan: Plan) -> Plan:
    """Returns the plan in which nothing trains before a pruning."""

    def stilled(done: Phase | None, left: float) -> Phase | None:
        phase = plan(done, left)
        return replace(phase, training=None) if phase and phase.prune else phase

    return stilled


def label(phase: Phase) -> str:
    """Returns the name of a phase in the run: `dense`, `tick-12`, `commit-1`."""
    return phase.kind if phase.kind == "dense" else phase.name


def initial(task: Task, method: Method) -> State:
    """Returns the state before any training; what cannot be reached is an error here."""
    progress = method.begin(task.graph)
    return State(task.model, starting.network(task, method.start).variables, progress)


def rounds(
    task: Task, method: Method, state: State, during: During = lambda *_: nullcontext(QUIET)
) -> Iterator[State]:
    """Yields the state after each phase that follows `state`.

    Args:
      task: of the run.
      method: the procedure.
      state: where to begin.
      during: (state, phase) -> a context of the phase, with the journal of its training.
    """
    plan, programs = after_dense(method.dense, method.plan), _programs(task, method, state)
    while phase := plan(state.done, state.progress.left()):
        if state.done and state.done.commit:
            programs = _programs(task, method, state)
        with during(state, phase) as journal:
            state = advanced(task, method, programs, state, phase, journal)
        yield state


def advanced(
    task: Task, method: Method, programs: Programs, state: State, phase: Phase, journal: Journal
) -> State:
    """Returns the state after one phase more."""
    if phase.kind == "finetune":
        state = state._replace(variables=_closed(method, state))
    if method.decorated and state.done and state.done.kind == "dense":
        decorated = jp.gates.decorate(state.variables)
        print(decorated)
        state = state._replace(variables=decorated.variables)
    variables, progress, tally = state.variables, state.progress, None
    if phase.training:
        variables, tally = _trained(task, method, programs, state, phase, journal)
    if phase.prune:
        drawn = key(task.config, label(phase))
        scores = method.score.read(progress.graph, variables, tally, drawn, task)
        progress = _pruned(
            task, method, progress, phase, processes.adopted(scores), variables, drawn
        )
        if method.recover:
            kept = method.recover(progress.graph, variables, progress.keep, drawn, task)
            kept = processes.adopted(kept)
            progress, variables = replace(progress, keep=kept[0]), kept[1]
        variables = jp.mask(progress.graph, variables, progress.keep)
    model = state.model
    if phase.commit:
        variables = jp.slice(progress.graph, variables, progress.keep)
        model = jp.linen.resize(task.model, progress.original, progress.total)
        again = key(task.config, f"{label(phase)}-{method.retrain}")
        total = progress.total
        variables = restarting.restarted(method.retrain, task, model, variables, total, again)
        progress = progress.commit(training.channel_graph(model, task.dataset.image_shape))
    variables = jax.device_get(variables)
    teacher = variables if method.distill and phase.kind == "dense" else state.teacher
    state = State(model, variables, progress, state.records, phase, teacher)
    return state._replace(records=(*state.records, _record(task, method, state)))


def network(method: Method, state: State) -> Network:
    """Returns the network of a state, in the model's own form."""
    cut = state.done is not None and state.done.milestone > 0
    return Network(state.model, _closed(method, state), state.progress.total if cut else {})


def _pruned(
    task: Task,
    method: Method,
    progress: Progress,
    phase: Phase,
    scores: Mapping[str, Any],
    variables: Variables,
    drawn: jax.Array,
) -> Progress:
    assert phase.prune is not None
    if method.allocate is None:
        return progress.prune(phase.prune, scores, phase.groups)
    journal = method.journals and processes.own(method.journals / f"{label(phase)}.jsonl")
    given = Given(task, progress.graph, variables, drawn)
    keep = processes.adopted(method.allocate(progress, phase.prune, scores, given, journal))
    return replace(progress, keep={**progress.keep, **keep})


def _trained(
    task: Task, method: Method, programs: Programs, state: State, phase: Phase, journal: Journal
) -> tuple[Variables, Tally | None]:
    """Returns the variables after the training of a phase, and the scores that it gathered."""
    use, graph = _use(task, method, state, phase), state.progress.graph
    scored = method.score.groups
    if use.training.part == Part.NOTHING and not use.gathers:
        return state.variables, None
    tx, step = programs(use)
    found = training.fit(
        Decorated(state.model) if use.gated else state.model,
        state.variables,
        task.dataset,
        tx=tx,
        epochs=use.training.epochs,
        batch_size=use.batch_size,
        key=key(task.config, label(phase)),
        keep=state.progress.keep,
        tally=jp.schedule.tally(graph, list(scored(graph))) if use.gathers else None,
        teacher=state.teacher if use.distill else None,
        share=use.training.data,
        step=step,
        journal=journal,
    )
    variables, tally = jax.device_get((found.variables, found.tally))
    return state.variables if use.training.part == Part.NOTHING else variables, tally


def _use(task: Task, method: Method, state: State, phase: Phase) -> Use:
    assert phase.training is not None
    config, how = task.config, phase.training
    finetune = phase.kind == "finetune" and method.finetune_batch_size
    if phase.kind == "finetune":
        longer = restarting.epochs(method.retrain, how.epochs, state.progress.left())
        how = replace(how, epochs=longer)
    return Use(
        how,
        phase.prune is not None and method.score.gather is not None,
        _opens(method, phase),
        finetune or config.batch_size,
        phase.groups if how.part == Part.READERS else None,
        method.distill if phase.kind == "finetune" else None,
    )


def _programs(task: Task, method: Method, state: State) -> Programs:
    """Returns (how a network is trained) -> (optimizer, compiled step), until the next commit."""
    model, graph, variables = state.model, state.progress.graph, state.variables

    @cache
    def program(use: Use) -> tuple[Any, Step]:
        how = use.training
        steps = training.epoch_steps(task.dataset, use.batch_size, how.data)
        tx = training.sgd(
            how.learning_rate(how.epochs * steps),
            momentum=how.momentum,
            weight_decay=how.weight_decay,
            nesterov=False,
            before=_penalty(method, how, graph, variables),
        )
        if how.strength and method.wrap:
            tx = method.wrap(tx, how, steps, graph)
        trains = jp.schedule.trainable(graph, variables, how.part, groups=use.groups)
        tx = jp.schedule.masked_updates(tx, graph, trains)
        gather = method.score.gather if use.gathers else None
        step = training.train_step(
            Decorated(model) if use.gated else model,
            tx,
            task.dataset,
            use.batch_size,
            loss=task.loss,
            gather=gather and gather(model, graph),
            taught=use.distill and use.distill.of(task.model, task.loss),
        )
        return tx, step

    return program


def _penalty(
    method: Method, how: Training, graph: jp.ChannelGraph, variables: Variables
) -> Transform | None:
    if not how.strength or (method.wrap and method.penalty is None):
        return None
    if method.penalty is None:
        raise ValueError(
            f"strength={how.strength}, and the method has no penalty.\nFix: strength=0."
        )
    return method.penalty(how, graph, variables)


def _opens(method: Method, phase: Phase) -> bool:
    """Whether the gates stand for the BatchNorms while the phase trains."""
    return method.decorated and phase.kind not in ("dense", "finetune")


def _closed(method: Method, state: State) -> Variables:
    """Returns the variables in the model's own form."""
    done = state.done
    open_ = method.decorated and done is not None and done.kind not in ("dense", "finetune")
    return jp.gates.melt(state.variables) if open_ else state.variables


def _record(task: Task, method: Method, state: State) -> Record:
    """Returns what the latest phase left: shares of the dense network, and the accuracy."""
    phase, total = state.done, state.progress.total
    assert phase is not None
    kept, sizes = (
        sum(each) for each in zip(*((k.sum(), k.size) for k in total.values()), strict=True)
    )
    return {
        "phase": label(phase),
        "kind": phase.kind,
        "rounds": phase.rounds,
        "epochs": phase.training.epochs * phase.training.data if phase.training else 0,
        "macs": state.progress.left(),
        "channels": int(kept) / sizes,
        "accuracy": results.accuracy(task, network(method, state), task.dataset.validation),
    }
