"""Every planner at the same share of a cost: the loss before and after the same fine-tuning.

A dense network of `benchmarks.dense` loses channels, ranked by one criterion, until a share of its
MACs is left, or of its latency by a table that is measured here; the planners say how many of which
group. Each plan is measured by mask on the test examples, from the dense weights and after some
steps of fine-tuning from them; one under latency also runs beside the dense network. Searches
measure about as many losses as a table of replaced widths has. A cell that is measured is not
measured again, and planning goes on from its journal.

Command:   python -m benchmarks.planned_value text --data-dir FILE
           python -m benchmarks.planned_value resnet20-cifar10 --data-dir DIR
           python -m benchmarks.planned_value  (writes the page anew from what is there)
Device:    CPU, 2 cores
Writes:    benchmarks/results/planned_value/NAME.json after every cell and planned_value.md, the
           table of latencies in planned_value/latency/NAME.json; the losses of all test examples
           and the journals under `--root`
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxprune as jp
from benchmarks import dense, planned_value_page
from benchmarks.criterion_cells import SCOPE, Bench, recalibrated
from benchmarks.journals import Losses, journals
from benchmarks.programs import narrowed
from experiments.procedures import planning, scoring
from experiments.report.bootstrap import interval
from experiments.runner import directory
from experiments.runner.fit import Variables

CONTROL = "uniform"
"""What the other planners are compared with."""
DENSE = "dense"
ROUNDS = 15
"""In which a plan and the dense network are timed in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Measure what is missing of the cells of one network."""

    network: Annotated[str, tyro.conf.Positional] = ""
    """A name in benchmarks/results/dense; none writes only the page."""
    data_dir: Path | None = None
    """Where its data are."""
    shares: tuple[float, ...] = (0.5, 0.25)
    """Of the MACs that stay."""
    times: tuple[float, ...] = (0.5,)
    """Shares of the latency that stay."""
    batch: int = 32
    """Examples in a call whose latency is meant."""
    planners: tuple[str, ...] = tuple(planning.PLANNERS)
    """Names in experiments/procedures/planning.py."""
    score: str = "wanda"
    """What ranks the channels of a group, a name in experiments/procedures/scoring.py."""
    evaluations: int = 48
    """About so many losses each search measures."""
    batches: int = 2
    """Of 64 validation examples, that a loss is measured on."""
    steps: int = 60
    """Of fine-tuning."""
    size: int = 16
    """Training examples in a step."""
    rate: float = 1e-3
    """Of Adam, in the fine-tuning."""
    root: Path = Path("runs/planned_value")
    """Where the losses of single examples, the journals of planners and programs are."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""


class Bound(NamedTuple):
    """What a plan keeps within; its name begins those of its cells."""

    name: str
    cost: jp.cost.Cost
    share: float
    graph: jp.ChannelGraph


class Cells:
    """A network with what its cells share."""

    def __init__(self, config: Config):
        """Loads the network and its data."""
        found = dense.load(config.network)
        self.config, self.about = config, found.about
        self.bench = Bench(dense.task(found, config.data_dir), found.variables)
        self.given = self.bench.given()
        self.scores = self.bench.scored(config.score, 0)
        self.root = config.root / f"{config.network}-{found.about['sha256'][:8]}"
        self.losses = Losses(self.root)
        train = self.given.task.dataset.train
        few = {"size": config.size, "count": config.steps}
        self.tuned = planning.tuned(
            self.given,
            steps=config.steps,
            batches=scoring.examples(self.given.task, train, **few),
            optimizer=optax.adam(config.rate),
        )

    def bounds(self) -> Iterator[Bound]:
        """Yields what plans are made for; the first use of a latency measures the table."""
        for share in self.config.shares:
            yield Bound(f"{share}", jp.cost.macs, share, self.bench.graph)
        if not self.config.times:
            return
        apply = partial(self.bench.task.model.apply, train=False)
        x = jnp.zeros((self.config.batch, *self.bench.task.dataset.image_shape))
        graph = jp.trace(apply, self.bench.variables, x)
        file = self.config.out / "planned_value" / "latency" / f"{self.config.network}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        again = file.exists()
        table = jp.cost.LatencyTable.load(file) if again else jp.cost.latency_table(graph)
        table.save(file)
        cost = jp.cost.tabled(table, other_device=True)
        for share in self.config.times:
            yield Bound(f"latency-{share}", cost, share, graph)

    def asked(self, bound: Bound, journal: Path | None = None) -> planning.Asked:
        """Returns what the planners plan within a bound."""
        return planning.asked(
            self.given._replace(graph=bound.graph),
            self.scores,
            {bound.cost: jp.Share(bound.share)},
            journal=journal,
            evaluations=self.config.evaluations,
            batches=self.config.batches,
            only=SCOPE,
        )

    def dense(self) -> dict[str, Any]:
        """Returns the losses of the dense network, before and after the same fine-tuning."""
        return self._losses(DENSE, {}, None)

    def measured(self, bound: Bound, planner: str) -> dict[str, Any]:
        """Returns the entry of a cell in the journal."""
        name = f"{bound.name}/{planner}"
        journal = self.root / f"{name.replace('/', '-')}.jsonl"
        again, asked = journal.exists(), self.asked(bound, journal)
        one = _seconds(partial(asked.evaluate, {}), twice=True)
        plans: list[Any] = []
        spent = _seconds(lambda: plans.append(planning.planned(planner, asked)))
        (plan,) = plans
        control = None if planner == CONTROL else f"{bound.name}/{CONTROL}"
        lines = journal.read_text().splitlines()[1:] if journal.exists() else []
        return {
            "macs": jp.cost.macs(self.bench.graph, plan.keep) / self.bench.macs,
            "widths": {name: int(width) for name, width in plan.widths.items()},
            "measured": len(lines),
            "forwards": None if again else round(spent / one, 1),
            **({} if bound.cost is jp.cost.macs else self._times(bound, plan.keep)),
            **self._losses(name, plan.keep, control),
        }

    def _times(self, bound: Bound, keep: Mapping[str, Any]) -> dict[str, float]:
        """The shares of the dense latency: by the table, and measured beside the dense network."""
        graph, x = bound.graph, jnp.zeros((self.config.batch, *self.given.task.dataset.image_shape))
        calls = narrowed(graph, self.bench.variables, x, ({}, keep))
        whole, pruned = jp.cost.interleaved(calls, repeats=ROUNDS)
        said = bound.cost(graph, keep) / bound.cost(graph, None)
        return {"predicted_time": round(said, 4), "time": round(pruned / whole, 4)}

    def _losses(self, name: str, keep: Mapping[str, Any], control: str | None) -> dict[str, Any]:
        """The test losses of a keep with the dense weights, and with them fine-tuned."""
        entry = {}
        tuned = self.tuned(self.bench.variables, keep)
        for when, variables in (("before", self.bench.variables), ("after", tuned)):
            values, right = self.bench.evaluate(self._ready(variables, keep))
            self.losses.write(f"{name}/{when}", values)
            entry[when] = {"loss": interval(values), "accuracy": float(right.mean())}
            other = control and self.losses.read(f"{control}/{when}")
            if isinstance(other, np.ndarray):
                entry[when]["to_control"] = interval(values - other)
        return entry

    def _ready(self, variables: Variables, keep: Mapping[str, Any]) -> Variables:
        masked = jp.mask(self.bench.graph, variables, keep)
        return recalibrated(self.bench.task, self.bench.update, masked)


def _seconds(call: Any, *, twice: bool = False) -> float:
    """Returns the CPU seconds of a call, of the second one if it compiles first."""
    if twice:
        call()
    start = time.process_time()
    call()
    return time.process_time() - start


def run(config: Config) -> None:
    """Measures the cells of a network that the journal does not hold."""
    cells = Cells(config)
    file = config.out / "planned_value" / f"{config.network}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    journal = directory.read_json(file) if file.exists() else {"cells": {}}
    about = {name: getattr(config, name) for name in planned_value_page.ASKED}
    if journal["cells"] and {**journal["about"]["asked"]} != about:
        raise ValueError(f"{file} was measured otherwise.\nFix: remove it, and measure again.")
    if journal["cells"] and journal["about"]["sha256"] != cells.about["sha256"]:
        raise ValueError(f"{file} is of another network.\nFix: remove it, and measure again.")
    command = f"python -m benchmarks.planned_value {config.network} --data-dir DIR"
    journal["about"] = {**cells.about, **directory.provenance(), "command": command, "asked": about}
    if DENSE not in journal or cells.losses.read(f"{DENSE}/after") is None:
        journal[DENSE] = cells.dense()
    for bound, planner in itertools.product(cells.bounds(), _ordered(config.planners)):
        if (name := f"{bound.name}/{planner}") not in journal["cells"]:
            journal["cells"][name] = cells.measured(bound, planner)
            directory.write_json(file, journal)
            print(name, journal["cells"][name], flush=True)
            write_page(config.out)


def _ordered(planners: tuple[str, ...]) -> list[str]:
    """The control first."""
    return sorted(planners, key=lambda name: name != CONTROL)


def write_page(out: Path) -> None:
    """Writes the page of all journals."""
    page = planned_value_page.page(journals(out / "planned_value"))
    (out / "planned_value.md").write_text(page, "utf-8")


def main(config: Config) -> None:
    """Measures what is missing, and writes the page."""
    if config.network:
        jax.config.update("jax_compilation_cache_dir", str((config.root / "programs").absolute()))
        run(config)
    write_page(config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.planned_value"))
