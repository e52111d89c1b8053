"""A dense network, and everything that the cells of a comparison share: data, graph, programs."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.comparing.config import Config
from experiments.procedures import distilling, rounds, steps
from experiments.procedures.dense import sgd, trained
from experiments.report.each_example import each_example
from experiments.runner import config as configuration
from experiments.runner import packed, processes, training
from experiments.runner.fit import QUIET, Journal, Variables
from experiments.runner.run import Run
from experiments.runner.task import Network, Task, initial, key
from experiments.runner.training import Step
from experiments.tasks import classification
from jaxprune.keep.check import Keep
from jaxprune.schedule import Training


class Bench:
    """A dense network with its data; a training is compiled once for all cells."""

    def __init__(self, task: Task[Config], variables: Variables):
        self.task, self.graph, self.variables = task, task.graph, variables
        self.macs = jp.cost.macs(self.graph)
        self.digest = digest(variables)
        self._made: dict[Any, Any] = {}
        exact = all(group.inexact is None for group in self.graph.groups.values())
        self.by_mask = exact and not task.config.cut

    def dense(self) -> Network:
        """Returns the dense network."""
        return Network(self.task.model, self.variables, {})

    def masked(self, variables: Variables, keep: Keep) -> Network:
        """Returns the whole network with its pruned channels at zero."""
        masked = jp.mask(self.graph, variables, keep)
        return Network(self.task.model, jax.device_get(masked), keep)

    def cut(self, variables: Variables, keep: Keep) -> Network:
        """Returns the small network."""
        model = jp.linen.resize(self.task.model, self.graph, keep)
        return Network(model, jax.device_get(jp.slice(self.graph, variables, keep)), keep)

    def left(self, keep: Keep) -> float:
        """Returns the share of the dense MACs that a keep leaves."""
        return jp.cost.macs(self.graph, keep) / self.macs

    def steps(self, how: Training) -> int:
        """Returns how many a training has."""
        size = self.task.config.batch_size
        return how.epochs * training.epoch_steps(self.task.dataset, size, how.data)

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """Returns what `make` gives, the same for every cell that asks by that name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def whole(self, keep: Keep) -> Keep:
        """Returns the keep with every group in it."""
        full = {n: np.ones(group.shape, bool) for n, group in self.graph.groups.items()}
        return full | {name: np.asarray(kept) for name, kept in keep.items()}

    def trained(
        self,
        task: Task[Config],
        network: Network,
        how: Training,
        name: str,
        *,
        journal: Journal = QUIET,
        distill: bool = False,
    ) -> Network:
        """Returns a network after a training in which what is pruned stays at zero.

        Args:
          task: of the cell.
          network: cut, or whole with its pruned channels at zero.
          how: it trains.
          name: of the phase, which its random numbers follow from.
          journal: of the training.
          distill: whether it learns from the dense network, if the configuration says how.
        """
        config = task.config
        distill = distill and config.distill > 0
        masks = None if network.sliced else self.whole(network.keep)
        masked = masks is not None
        place = ("step", None if masked else network.model, how, distill)
        tx, step = self.once(place, lambda: self.program(network.model, how, masked, distill))
        found = training.fit(
            network.model,
            network.variables,
            task.dataset,
            tx=tx,
            epochs=how.epochs,
            batch_size=config.batch_size,
            key=key(config, name),
            keep=masks,
            share=how.data,
            step=step,
            teacher=self.variables if distill else None,
            journal=journal,
        )
        return network._replace(variables=jax.device_get(found.variables))

    def program(
        self, model: Any, how: Training, masked: bool, distill: bool
    ) -> tuple[optax.GradientTransformation, Step]:
        """Returns the optimizer of a training and its compiled step, with masks or taught."""
        config, dataset = self.task.config, self.task.dataset
        tx = sgd(how, how.learning_rate(self.steps(how)))
        if masked:
            tx = jp.schedule.masked_updates(tx, self.graph)
        how_taught = distilling.asked(config.distill, config.temperature) if distill else None
        taught = how_taught and how_taught.of(self.task.model, self.task.loss)
        step = training.train_step(
            model, tx, dataset, config.batch_size, loss=self.task.loss, taught=taught
        )
        return tx, step

    def evaluate(self, network: Network) -> tuple[np.ndarray, np.ndarray]:
        """Returns loss and whether it is right, f32[n] each, of every test image."""
        return each_example(network.model, network.variables, self.task.dataset)


class Work(NamedTuple):
    """What a method is given."""

    bench: Bench
    task: Task[Config]  # with the seed of the cell
    share: float  # of the dense MACs that may stay
    run: Run[Config]  # where its phases are kept

    @property
    def graph(self) -> jp.ChannelGraph:
        """Returns that of the dense network."""
        return self.bench.graph

    @property
    def variables(self) -> Variables:
        """Returns those of the dense network."""
        return self.bench.variables

    def budget(self, scores: Any) -> Keep:
        """Returns the keep of the channels of highest score within the budget, to one channel."""
        return jp.select.budget(
            self.graph,
            scores,
            keep_macs=self.share,
            min_keep_ratio=self.task.config.min_keep_ratio,
        )


class Pruned(NamedTuple):
    """What a method gives.

    Attributes:
      keep: {group: bool[n], branch: bool} of the dense network.
      variables: in its shapes.
      epochs: passes over the training images before the cut.
      retrain: for so many epochs it trains as the dense network did, in the place of the recovery.
      fresh: variables in the shapes of the cut network, in the place of `variables`.
    """

    keep: Keep
    variables: Variables
    epochs: float = 0.0
    retrain: int | None = None
    fresh: Variables | None = None


Prune = Callable[[Work], Pruned]


def begun(bench: Bench, pruned: Pruned) -> Network:
    """Returns the pruned network before its recovery: by mask where that is the law, else cut."""
    keep = pruned.keep
    if pruned.fresh is not None:
        model = jp.linen.resize(bench.task.model, bench.graph, keep)
        return Network(model, jax.device_get(pruned.fresh), keep)
    branches = any(name not in bench.graph.groups for name in keep)
    whole = bench.by_mask and not branches
    return (bench.masked if whole else bench.cut)(pruned.variables, keep)


def opened(config: Config) -> Bench:
    """Returns the dense network of a configuration: a committed one, or one that trains now.

    Raises:
      ValueError: there is none of that name, or the data do not fit.
    """
    dense, train, finetune = rounds.scaled(config, config.dense, config.train, config.finetune)
    config = replace(config, dense=dense, train=train, finetune=finetune, scale=1.0)
    task, variables = processes.together(lambda: _read(config))
    processes.check_alike(configuration.to_json(config), task.dataset)
    return Bench(task, _trained(task) if variables is None else variables)


def _read(config: Config) -> tuple[Task[Config], Variables | None]:
    """Returns the data and the model, and the committed variables if there are some."""
    if not config.network:
        return classification.task(config), None
    found = packed.load(config.network)
    known: Any = packed.config(found)
    theirs = {n: getattr(known, n) for n in ("dataset", "model", "widths", "limit", "dense")}
    return classification.task(replace(config, **theirs)), found.variables


def _trained(task: Task[Config]) -> Variables:
    """Returns the dense network, which a run keeps."""
    config = task.config
    value = {n: configuration.to_json(config)[n] for n in ("dataset", "model", "widths", "dense")}
    path = (
        config.root / config.name / f"dense-{hashlib.sha256(repr(value).encode()).hexdigest()[:8]}"
    )
    run = Run(path, task)
    path.mkdir(parents=True, exist_ok=True)
    train = steps.Step("dense", partial(trained, task))
    return steps.follow(run, [train], initial(task))["dense"].variables


def digest(variables: Variables) -> str:
    """Returns the start of the SHA-256 of all values."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]
