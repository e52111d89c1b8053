"""Network Slimming as a list of phases, each a pure function from network to network."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments import data
from experiments.methods.network_slimming.config import Config
from experiments.procedures.steps import Step
from experiments.runner import training
from experiments.runner.fit import QUIET, Journal, Variables
from experiments.runner.task import Network, Task, fresh, initial, key
from jaxprune.keep.check import Keep

Transform = optax.GradientTransformation


def steps(task: Task[Config]) -> list[Step]:
    """Returns the procedure that the configuration asks for."""
    config, procedure = task.config, []
    for number in range(1, config.passes + 1):
        tail = f"-{number}" if number > 1 else ""
        dense, last = f"trained{tail}" if tail else "dense", f"{retrained(config)}{tail}"
        procedure += [
            Step(dense, partial(train, task, dense)),
            Step(f"pruned{tail}", partial(_prune, task, number)),
            Step(f"recalibrated{tail}", lambda network, _: recalibrate(task, network)),
            Step(last, partial(retrain, task, last)),
        ]
    if config.recalibration_batches == 0:
        procedure = [step for step in procedure if not step.name.startswith("recalibrated")]
    if config.method == "mask":
        procedure.append(Step("sliced", lambda network, _: cut(task, network, network.keep)))
    return procedure


def retrained(config: Config) -> str:
    """Returns the name of the network after the first pass."""
    return {"finetune": "finetuned", "rewind": "rewound"}.get(config.retrain, config.retrain)


def train(task: Task, name: str, network: Network, journal: Journal = QUIET) -> Network:
    """Returns the network trained with the penalty."""
    config = task.config
    epochs, rate = config.scaled(config.epochs), config.learning_rate
    return _fit(task, name, network, journal, epochs=epochs, rate=rate, penalized=True)


def choose(task: Task, network: Network, *, number: int = 1) -> Keep:
    """Returns which of the channels that are left stay, by |gamma|, after pass `number`.

    With a limit to what a layer loses, the threshold is set as without it: as in the paper, fewer
    channels go than the ratio says.
    """
    config, graph = task.config, task.graph
    most = config.max_prune_ratio or (0.5 if config.passes > 1 else 1.0)
    limits: Any = {
        "min_channels": config.min_channels,
        "max_prune_ratio": most,
        "within": network.keep,
    }
    scores = jax.device_get(jp.scores.bn_scale(graph, _whole(task, network)))
    if config.target_macs is not None:
        share = config.target_macs ** (number / config.passes)
        return jp.select.budget(graph, scores, keep_macs=share, **limits)
    if config.scope == "layer":
        return jp.select.per_group(graph, scores, prune_ratio=config.prune_ratio, **limits)
    rule = getattr(jp.select, config.rule)
    if most == 1:
        return jp.select.global_ratio(
            graph, scores, prune_ratio=config.prune_ratio, ties=rule, **limits
        )
    left = [v[network.keep.get(n, np.ones(v.size, bool))] for n, v in scores.items()]
    ascending = np.sort(np.concatenate(left).astype(np.float64))
    count = rule(ascending, int(config.prune_ratio * ascending.size))
    threshold = float(ascending[count - 1]) if count else -np.inf
    return jp.select.threshold(graph, scores, threshold=threshold, **limits)


def cut(task: Task, network: Network, keep: Keep) -> Network:
    """Returns the network without the pruned channels."""
    graph, momentum = task.graph, network.momentum
    model = jp.linen.resize(task.model, graph, keep)
    if momentum is not None:
        momentum = jp.slice(graph, _full(graph, network, {"params": momentum}), keep)["params"]
    return Network(model, jp.slice(graph, _whole(task, network), keep), keep, momentum)


def mask(task: Task, network: Network, keep: Keep) -> Network:
    """Returns the network at full shape with the pruned channels zero."""
    return Network(task.model, jp.mask(task.graph, _whole(task, network), keep), keep)


def recalibrate(task: Task, network: Network) -> Network:
    """Returns the network with the statistics of BatchNorm measured on training images."""
    config, train = task.config, task.dataset.train
    batches = data.some(train, size=256, count=config.recalibration_batches, seed=config.seed)
    update = training.batch_statistics(network.model, task.dataset)
    variables = jp.recover.recalibrate(update, network.variables, batches)
    return network._replace(variables=variables)


def retrain(task: Task, name: str, network: Network, journal: Journal = QUIET) -> Network:
    """Returns the pruned network trained without the penalty, from where `retrain` says."""
    config = task.config
    if config.retrain == "finetune":
        epochs, rate = config.scaled(config.finetune_epochs), config.finetune_learning_rate
        return _fit(task, name, network, journal, epochs=epochs, rate=rate, penalized=False)
    again = cut if network.sliced else mask
    if config.retrain == "rewind":
        network = again(task, initial(task), network.keep)
    elif network.sliced:  # the initial deviations are those of the narrow layers
        network = network._replace(variables=fresh(network.model, task.dataset, key(config, name)))
    else:
        new = fresh(task.model, task.dataset, key(config, name))
        network = mask(task, Network(task.model, new, {}), network.keep)
    epochs = scratch_epochs(task, network.keep)
    rate, network = config.learning_rate, network._replace(momentum=None)
    return _fit(task, name, network, journal, epochs=epochs, rate=rate, penalized=False)


def scratch_epochs(task: Task, keep: Keep) -> int:
    """Returns the epochs from new weights: those of the dense network, or of equal MACs.

    Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3.
    """
    config = task.config
    if config.retrain != "scratch-b":
        return config.scaled(config.epochs)
    dense, pruned = (jp.cost.macs(task.graph, kept) for kept in (None, keep))
    return config.scaled(config.epochs * dense / pruned)


def penalty(config: Config, rate: optax.Schedule, variables: Variables) -> dict[str, Transform]:
    """Returns the transformations that the penalty puts before or after SGD."""
    scales = jp.scale_mask(variables)
    if config.penalty == "l1":
        return {"before": jp.sparsify.l1_bn_scale(config.strength, scales)}
    if config.penalty == "smooth-l1":
        width = config.smooth_width
        return {"before": jp.sparsify.smooth_l1_bn_scale(config.strength, scales, width=width)}
    proximal = jp.sparsify.proximal_l1_bn_scale(config.strength, scales, learning_rate=rate)
    return {"after": proximal}


def _prune(task: Task, number: int, network: Network, journal: Journal) -> Network:
    del journal
    keep = choose(task, network, number=number)
    return (cut if task.config.method == "slice" else mask)(task, network, keep)


def _fit(
    task: Task,
    name: str,
    network: Network,
    journal: Journal,
    *,
    epochs: int,
    rate: float,
    penalized: bool,
) -> Network:
    config, dataset = task.config, task.dataset
    total = epochs * (dataset.train.size // config.batch_size)
    scheduled = training.schedule(rate, steps=total, milestones=config.milestones)
    extra: Any = penalty(config, scheduled, network.variables) if penalized else {}
    tx = training.sgd(scheduled, weight_decay=config.weight_decay, **extra)
    keep = network.keep if network.keep and not network.sliced else None
    if keep:
        tx = jp.schedule.masked_updates(tx, task.graph)
    opt_state = tx.init(network.variables["params"])
    if config.momentum == "sliced" and network.momentum is not None and not penalized:
        opt_state = optax.tree.set(opt_state, trace=network.momentum)
    state = training.fit(
        network.model,
        network.variables,
        dataset,
        tx=tx,
        epochs=epochs,
        batch_size=config.batch_size,
        key=key(config, name),
        opt_state=opt_state,
        keep=keep,
        journal=journal,
    )
    momentum = optax.tree.get(state.opt_state, "trace") if config.momentum == "sliced" else None
    variables, momentum = jax.device_get((state.variables, momentum))
    return network._replace(variables=variables, momentum=momentum)


def _whole(task: Task, network: Network) -> Variables:
    return _full(task.graph, network, network.variables)


def _full(graph: jp.ChannelGraph, network: Network, tree: Mapping[str, Any]) -> Any:
    """Returns a tree of the network in the shapes of the unpruned one."""
    return jp.unslice(graph, tree, network.keep) if network.sliced else tree
