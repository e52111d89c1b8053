"""Do the scales of BatchNorm say more than chance? Network Slimming against random channels.

Both cut the same trained network down to the same MACs, then recalibrate and fine-tune alike.

Command:   python -m benchmarks.slimming_vs_random
Device:    CPU, 2 cores
Wall time: 30 minutes on a machine that was shared
Expected:  at 5 % of the MACs |gamma| 98.85 recalibrated and 99.60 fine-tuned, random 12.55 and
           95.95; dense 99.25 (at commit 3a29ec7; the loop draws other random numbers since)
Writes:    benchmarks/results/slimming_vs_random.{json,md}
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxprune as jp
from experiments.methods import network_slimming
from experiments.methods.network_slimming import stages
from experiments.report import results
from experiments.runner import directory
from experiments.runner import task as networks
from experiments.runner.task import Network, Task
from experiments.tasks import classification
from jaxprune.keep.check import Keep

SCORES = ("bn_scale", "random")
STAGES = ("recalibrated", "finetuned")
HEAD = """# Network Slimming against random channels on {dataset}

Accuracies on the test images and shares of the dense network, in percent; mean ± standard deviation
over seeds. Both scores cut the same trained networks.
{made}

"""
RATIO_COLUMNS = ("pruned", *STAGES, "channels", "macs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Compare |gamma| with random scores at equal MACs."""

    seeds: int = 5
    """Seeds 0, 1, ...; each trains its own dense network."""
    keep_macs: tuple[float, ...] = (0.05, 0.02)
    """Shares of the dense MACs that stay."""
    slimming: network_slimming.Config = field(default_factory=network_slimming.Config)
    """How to train, prune by ratio, and fine-tune."""
    out: Path = Path(__file__).parent / "results" / "slimming_vs_random"
    """Where to write, without the suffix."""


def measure(config: Config, seed: int) -> dict[str, Any]:
    """Returns the accuracies of one seed: dense, at the default ratio, and at every budget."""
    task = classification.task(replace(config.slimming, seed=seed))
    graph, dense = task.graph, stages.train(task, "dense", networks.initial(task))
    scores = {
        "bn_scale": jp.scores.bn_scale(graph, dense.variables),
        "random": jp.scores.random(graph, jax.random.key(seed)),
    }

    def at(keep: Keep) -> dict[str, Any]:
        return pruned_accuracy(task, dense, keep)

    return {
        "seed": seed,
        "dense": results.accuracy(task, dense, task.dataset.test),
        "ratio": at(stages.choose(task, dense)),
        "budgets": {
            str(share): {
                name: at(jp.select.budget(graph, score, keep_macs=share))
                for name, score in scores.items()
            }
            for share in config.keep_macs
        },
    }


def pruned_accuracy(task: Task, dense: Network, keep: Keep) -> dict[str, Any]:
    """Returns accuracies and shares of one pruned network, straight after pruning and later."""
    pruned = stages.cut(task, dense, keep)
    recalibrated = stages.recalibrate(task, pruned)
    finetuned = stages.retrain(task, "finetuned", recalibrated)
    each_stage = {"pruned": pruned, "recalibrated": recalibrated, "finetuned": finetuned}
    test, comparison = task.dataset.test, jp.compare(task.graph, keep)
    return {
        **{name: results.accuracy(task, each, test) for name, each in each_stage.items()},
        "macs": comparison.macs.ratio,
        "channels": comparison.channels.ratio,
    }


def tables(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the lines of the Markdown report; accuracies in percent, mean ± standard deviation."""
    yield "## Default ratio, |gamma|"
    yield ""
    yield "| seed | dense | pruned | recalibrated | fine-tuned | channels kept | MACs kept |"
    yield "|---|---|---|---|---|---|---|"
    rows = [[seed["dense"], *map(seed["ratio"].get, RATIO_COLUMNS)] for seed in found]
    for seed, row in zip(found, rows, strict=True):
        yield f"| {seed['seed']} | {' | '.join(map(_percent, row))} |"
    yield f"| mean | {' | '.join(map(_percent, np.mean(rows, axis=0)))} |"
    yield ""
    yield f"## Equal MACs, {len(found)} seeds"
    yield ""
    yield f"Dense: {_spread(seed['dense'] for seed in found)}."
    yield ""
    yield "| MACs kept | scores | MACs | recalibrated | fine-tuned | lost to dense |"
    yield "|---|---|---|---|---|---|"
    for share in found[0]["budgets"]:
        for name in SCORES:
            rows = [seed["budgets"][share][name] for seed in found]
            lost = [seed["dense"] - row["finetuned"] for seed, row in zip(found, rows, strict=True)]
            cells = [_spread(row[stage] for row in rows) for stage in ("macs", *STAGES)]
            yield f"| {share} | {name} | {' | '.join(cells)} | {_spread(lost)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _spread(shares: Iterable[float]) -> str:
    values = 100 * np.array(list(shares))
    return f"{values.mean():.2f} ± {values.std():.2f}"


def main(config: Config) -> None:
    """Runs every seed and writes JSON and Markdown after each, so that nothing is lost."""
    start, provenance = time.perf_counter(), directory.provenance()
    config.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for seed in range(config.seeds):
        found.append(measure(config, seed))
        record = {
            "config": json.loads(json.dumps(asdict(config), default=str)),
            "results": found,
            "wall_time_s": round(time.perf_counter() - start, 1),
            **provenance,
        }
        directory.write_json(config.out.with_suffix(".json"), record)
        head = HEAD.format(dataset=config.slimming.dataset, made=directory.made(provenance))
        markdown = head + "\n".join(tables(found)) + "\n"
        config.out.with_suffix(".md").write_text(markdown, "utf-8")
        print(f"seed {seed} is done after {record['wall_time_s']:.0f} s", flush=True)
    print("\n".join(tables(found)))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.slimming_vs_random"))
