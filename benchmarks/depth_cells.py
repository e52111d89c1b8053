"""One network pruned in width, in depth or in both, before and after a short training."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from benchmarks.criterion_cells import SCOPE, image, recalibrated
from experiments import data
from experiments.data.augment import normalized
from experiments.procedures import scoring
from experiments.report.each_example import each_example
from experiments.runner import training
from experiments.runner.fit import State, Variables
from experiments.runner.task import Network, Task, key
from jaxprune.keep.check import Keep

WAYS = ("width", "depth", "both")
EQUAL = ("macs", "latency")
EVEN = (jp.Kind.STREAM, jp.Kind.HIDDEN)
"""Kinds of the groups of which the same share can go."""
RATIOS = np.arange(200) / 200
"""Shares of the channels that are tried."""
HALVINGS = 6
"""Of the range of MACs in which the same latency is looked for."""
ROUNDS = 20
"""Of calls in turn that are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A short training after the cut, the same for all."""

    steps: int = 100
    """Of the optimizer."""
    rate: float = 1e-3
    """Of Adam at the peak, after a tenth of the steps; it falls to zero along a cosine."""


class Cell(NamedTuple):
    """What is measured; its name is its place in the journal."""

    equal: str  # of EQUAL
    share: float  # of the MACs, that depth alone leaves at most
    way: str  # of WAYS
    seed: int  # of the examples that choose, and of those that train

    @property
    def name(self) -> str:
        """Returns `macs/0.5/width/0`."""
        return "/".join(map(str, self))


class Measured(NamedTuple):
    """What a cell gives: losses and right answers of every test example, twice."""

    keep: Keep
    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]


class Bench:
    """A trained network, cut in several ways."""

    def __init__(
        self,
        task: Task[Any],
        variables: Variables,
        *,
        criterion: str,
        recovery: Recovery,
    ):
        self.apply = partial(task.model.apply, train=False)
        self.graph = jp.trace(self.apply, variables, image(task))
        self.task = task._replace(graph=self.graph)
        self.variables = jax.device_put(variables)
        self.macs = jp.cost.macs(self.graph)
        self.criterion = criterion
        self.recovery = recovery
        self.depths: dict[tuple[float, int], Keep] = {}

        @jax.jit
        def losses(variables: Variables, gates: Any, images: Any, labels: Any) -> jax.Array:
            logits = jp.gated(self.apply, self.graph)(variables, gates, images)
            return task.loss(logits, labels)

        @jax.jit
        def masked(variables: Variables, keep: Keep, images: Any, labels: Any) -> jax.Array:
            logits = jp.masked(self.apply, self.graph)(variables, keep, images)
            return task.loss(logits, labels)

        self.losses, self.masked = losses, masked

    def dense(self) -> Network:
        """Returns the network as it was trained."""
        return Network(self.task.model, self.variables, {})

    def measure(self, cell: Cell) -> Measured:
        """Returns what a cell gives."""
        keep = self.keep(cell)
        network = self.small(keep)
        after = network._replace(variables=self.trained(network, cell.seed))
        return Measured(keep, self.evaluate(network), self.evaluate(after))

    def evaluate(self, network: Network) -> tuple[np.ndarray, np.ndarray]:
        """Returns loss and share of right answers of every test example."""
        return each_example(network.model, network.variables, self.task.dataset)

    def keep(self, cell: Cell) -> Keep:
        """Returns what stays: in width and in both as much as depth alone leaves."""
        deep = self.depth(cell.share, cell.seed)
        if cell.way == "depth":
            return deep
        first = {} if cell.way == "width" else self.depth((1 + cell.share) / 2, cell.seed)
        small = jp.slice(self.graph, self.variables, first)
        fn = jp.narrow(self.apply, self.graph, first)
        graph = jp.trace(fn, small, image(self.task)) if first else self.graph
        scored = self.scores(graph, small, cell.seed)
        most = jp.cost.macs(self.graph, deep)
        if cell.equal == "macs":
            return self.widths(first, graph, scored, most, cell.seed)
        return self.as_fast(deep, lambda most: self.widths(first, graph, scored, most, cell.seed))

    def depth(self, share: float, seed: int) -> Keep:
        """Returns which branches stay, chosen greedily by the loss on training examples."""
        if (share, seed) not in self.depths:
            batches = [*self.batches(seed)]

            def loss(gates: Any) -> jax.Array:
                each = [self.losses(self.variables, gates, *batch) for batch in batches]
                return jnp.mean(jnp.stack(each))

            found = jp.select.depth(self.graph, loss, keep_macs=share)
            self.depths[share, seed] = found
        return self.depths[share, seed]

    def batches(self, seed: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yields the examples that scores look at."""
        dataset = self.task.dataset
        for part in data.examples(dataset.train, size=64, count=2, seed=seed):
            yield normalized(dataset.mean, dataset.std, jnp.asarray(part.images)), part.labels

    def scores(self, graph: jp.ChannelGraph, small: Variables, seed: int) -> Mapping[str, Any]:
        """Returns scores of the channels, measured in the network without some branches."""
        task = self.task._replace(config=replace(self.task.config, seed=seed), graph=graph)
        given = scoring.Given(task, graph, small, key(task.config, "depth"))
        return jax.device_get(scoring.scores(self.criterion, given))

    def widths(
        self,
        deep: Keep,
        graph: jp.ChannelGraph,
        scored: Mapping[str, Any],
        most: float,
        seed: int,
    ) -> Keep:
        """Returns the branches that stay, and channels within a bound of MACs.

        They are chosen in two ways: the same share of every stream and of all hidden units, or by
        the scores ranked over the network, heads among them. The one of the smaller loss stays.
        """
        tried = [self.same_share(deep, scored, most), ranked(deep, graph, scored, most)]
        losses = [self.loss(keep, seed) for keep in tried]
        return tried[int(np.argmin(losses))]

    def same_share(self, deep: Keep, scored: Mapping[str, Any], most: float) -> Keep:
        """Returns the same share of the channels of every group; heads, which are few, stay."""
        kinds = jp.kinds(self.graph)
        scored = {n: score for n, score in scored.items() if kinds[n] in EVEN}
        for ratio in RATIOS:
            some = jp.select.per_group(self.graph, scored, prune_ratio=ratio)
            keep = {**deep, **{name: some[name] for name in scored}}
            if jp.cost.macs(self.graph, keep) <= most:
                return keep
        raise ValueError(f"no share of channels leaves {most:,} MACs.\nFix: a larger share.")

    def loss(self, keep: Keep, seed: int) -> float:
        """Returns the loss of a masked network on the training examples of a seed."""
        whole = {name: np.ones(group.shape, bool) for name, group in self.graph.groups.items()}
        stay = {name: np.ones(item.shape, bool) for name, item in jp.branches(self.graph).items()}
        every = {**whole, **stay, **keep}
        each = [self.masked(self.variables, every, *batch) for batch in self.batches(seed)]
        return float(np.mean(each))

    def as_fast(self, deep: Keep, keep_of: Callable[[float], Keep]) -> Keep:
        """Returns the largest network that takes no longer than one without branches."""
        goal = self.runs(deep)
        low, high, best = 0.2 * self.macs, float(self.macs), None
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            keep = keep_of(middle)
            wanted, got = jp.cost.interleaved([goal, self.runs(keep)], repeats=ROUNDS)
            if got <= wanted:
                low, best = middle, keep
            else:
                high = middle
        if best is None:
            raise ValueError(
                "no network of the tried widths is as fast as the one without branches.\n"
                "Fix: a larger share."
            )
        return best

    def runs(self, keep: Keep) -> Callable[[], Any]:
        """Returns a call of a cut network, compiled, on a batch of test examples."""
        network = self.small(keep)
        test, dataset = self.task.dataset.test, self.task.dataset
        inputs = normalized(dataset.mean, dataset.std, jnp.asarray(test.images[:32]))
        run = jax.jit(partial(network.model.apply, train=False))
        return lambda: run(network.variables, inputs)

    def small(self, keep: Keep) -> Network:
        """Returns the cut network, with BatchNorm's statistics measured anew."""
        model = jp.linen.resize(self.task.model, self.graph, keep)
        small = jp.slice(self.graph, self.variables, keep)
        update = training.batch_statistics(model, self.task.dataset)
        return Network(model, recalibrated(self.task, update, small), keep)

    def trained(self, network: Network, seed: int) -> Variables:
        """Returns the variables after the short training."""
        how, dataset, size = self.recovery, self.task.dataset, self.task.config.batch_size
        rates = optax.warmup_cosine_decay_schedule(0.0, how.rate, how.steps // 10, how.steps)
        tx = optax.adam(rates)
        step = training.train_step(network.model, tx, dataset, size, loss=self.task.loss)
        train: Any = jax.device_put(dataset.train)
        keys = jax.random.split(jax.random.fold_in(key(self.task.config, "recovery"), seed))
        variables = jax.tree.map(jnp.array, network.variables)  # the step donates them
        start = State(variables, tx.init(variables["params"]), jnp.int32(0))
        state, _ = training.train_epoch(
            step, start, train, [*keys], batch_size=size, steps=how.steps
        )
        if "batch_stats" not in variables:
            return {"params": state.variables["params"]}
        return state.variables


def ranked(deep: Keep, graph: jp.ChannelGraph, scored: Mapping[str, Any], most: float) -> Keep:
    """Returns the channels of the highest scores, each over the mean of its group, within MACs.

    Args:
      deep: the branches that stay.
      graph: of the network without the others.
      scored: {group: f32[n]} of that.
      most: a count.
    """
    kinds = jp.kinds(graph)
    scored = {n: score for n, score in scored.items() if kinds[n] in SCOPE}
    channels = jp.select.budget(
        graph,
        jp.scores.normalized(scored),
        keep_macs=jp.Absolute(most),
        min_keep_ratio=0.1,
        only=[*scored],
    )
    return {**deep, **channels}
