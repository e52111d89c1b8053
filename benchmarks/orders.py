"""Do the orders of the papers hold? Every method at equal MACs, by likelihood out of fold.

Tick-Tock against Tick-Only and One-Shot; GBN against Slim, PCNN and random scores; OICSR against
the separated group lasso. All digits are test images once: in each fold one dense network is
trained on the others, and every method prunes and fine-tunes that. A difference of two methods is
the mean over all images of the difference of their log-likelihoods, with a bootstrap over images;
it does not cover what other initial weights would give, for which there are `--seeds`.

Command:   python -m benchmarks.orders
           python -m benchmarks.orders --only pcnn --out benchmarks/results/orders_pcnn
Device:    CPU, 2 cores
Wall time: 170 s a fold on a machine that was shared, with JAX_COMPILATION_CACHE_DIR set
Writes:    benchmarks/results/orders.{json,md}; the second command the control experiment for PCNN,
           whose scores it leaves as they are (raw), or divides by their root mean square (rms), in
           place of the Euclidean norm, which makes the scores of wide groups small
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tyro

import jaxprune as jp
from benchmarks import folds
from experiments import models
from experiments.methods import gate_decorator, oicsr
from experiments.procedures import rounds
from experiments.procedures.rounds import Method, State
from experiments.runner import config as configuration
from experiments.runner import directory, presets
from experiments.runner import training as trainings
from experiments.runner.fit import Variables
from experiments.runner.task import Network, Task
from jaxprune.schedule import Phase, Training, triangular

CLAIMS = (
    ("tick-tock gbn", "tick-only gbn"),
    ("tick-only gbn", "one-shot gbn"),
    ("tick-tock gbn", "tick-tock slim"),
    ("tick-tock gbn", "tick-tock pcnn"),
    ("tick-tock slim", "tick-tock random"),
    ("tick-tock pcnn", "tick-tock random"),
    ("oicsr", "separated"),
)
"""(the method that the paper says is at least as good, the other)."""
QUESTIONS = (
    ("tick-tock pcnn raw", "tick-tock pcnn"),
    ("tick-tock pcnn rms", "tick-tock pcnn"),
    ("tick-tock pcnn raw", "tick-tock random"),
    ("tick-tock pcnn rms", "tick-tock random"),
)
"""(a control, what it is compared with)."""
CONTROLS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = MappingProxyType(
    {
        "tick-tock pcnn raw": lambda scores: scores,
        "tick-tock pcnn rms": lambda scores: {
            group: score * np.sqrt(np.size(score))
            for group, score in jp.scores.normalized(scores).items()
        },
    }
)
"""Name -> what it makes of PCNN's scores; they run only where they are asked for."""
PCNN = ("tick-tock pcnn", *CONTROLS, "tick-tock random")
_SHORT = (Training(epochs=2, rates=triangular(1e-3, 1e-2)),)


def _gates() -> gate_decorator.Config:
    start = presets.config("digits", gate_decorator.PRESETS, gate_decorator.Config())
    return replace(start, widths=(8, 16, 32), keep_macs=(0.1,), finetune=_SHORT)


def _oicsr() -> oicsr.Config:
    start = presets.config("digits", oicsr.PRESETS, oicsr.Config())
    changes: Any = {"channels": "all", "max_prune_ratio": 0.9, "finetune": _SHORT}
    return replace(start, widths=(8, 16, 32), keep_macs=(0.1,), **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Compare the methods of the two papers at equal MACs."""

    folds: int = 5
    """Parts of the digits, each of which is tested on once."""
    seeds: int = 1
    """Of initial weights, order and random scores; log-likelihoods are averaged over them."""
    only: tuple[str, ...] = ()
    """Methods to run, or pcnn: PCNN, its controls and random scores; all but these by default."""
    draws: int = 10_000
    """Of the bootstrap."""
    gates: gate_decorator.Config = field(default_factory=_gates)
    """How Gate Decorator trains and prunes; the dense training is for all methods."""
    lasso: oicsr.Config = field(default_factory=_oicsr)
    """And OICSR."""
    out: Path = Path(__file__).parent / "results" / "orders"
    """Where to write, without the suffix."""


def methods(config: Config, seed: int) -> dict[str, tuple[Any, Method]]:
    """Returns {name: (configuration, procedure)}."""
    gates, lasso = replace(config.gates, seed=seed), replace(config.lasso, seed=seed)
    pairs = [("tick-tock", score) for score in gate_decorator.SCORES]
    pairs += [("tick-only", "gbn"), ("one-shot", "gbn")]
    configs: dict[str, Any] = {
        f"{framework} {score}": replace(gates, framework=framework, score=score)
        for framework, score in pairs
    }
    configs |= {name: replace(lasso, regularizer=name) for name in ("oicsr", "separated")}
    wanted = PCNN if config.only == ("pcnn",) else config.only or tuple(configs)
    configs |= dict.fromkeys(CONTROLS, configs["tick-tock pcnn"])
    if unknown := set(wanted) - set(configs):
        raise ValueError(f"no method {sorted(unknown)}.\nFix: some of {list(configs)}, or pcnn.")
    make = {gate_decorator.Config: gate_decorator.method, oicsr.Config: oicsr.method}
    found = {name: (configs[name], make[type(configs[name])](configs[name])) for name in wanted}
    return {name: (each, _controlled(name, method)) for name, (each, method) in found.items()}


def _controlled(name: str, method: Method) -> Method:
    if name not in CONTROLS:
        return method
    read: Any = lambda _g, _v, tally, _k: CONTROLS[name](tally.scores())  # noqa: E731
    return method._replace(score=method.score._replace(read=read))


def pruned(task: Task, method: Method, dense: Variables) -> State:
    """Returns the state at the end of a procedure that begins with a dense network."""
    start = rounds.initial(task, method)
    variables = jp.gates.decorate(dense).variables if method.decorated else dense
    done = Phase(kind="dense", number=1, rounds=0, milestone=0, training=method.dense)
    state = start._replace(variables=variables, done=done)
    *_, last = rounds.rounds(task, method, state)
    return last


def measure(config: Config, seed: int, number: int) -> Iterator[dict[str, Any]]:
    """Yields for every method, the dense network first, what it gives on a fold."""
    dataset, places = folds.fold(number, config.folds)
    base = replace(config.gates, seed=seed)
    model = models.build(base.model, classes=10, widths=base.widths)
    graph = trainings.channel_graph(model, dataset.image_shape)

    def timed(name: str, task: Task, network: Network, macs: float, start: float) -> Any:
        seconds = round(time.perf_counter() - start, 1)
        return folds.row(name, task, network, macs, places) | {"seconds": seconds}

    start = time.perf_counter()
    task = Task(base, dataset, model, graph)
    plain = gate_decorator.method(base)._replace(decorated=False)
    dense = next(rounds.rounds(task, plain, rounds.initial(task, plain)))
    network = rounds.network(plain, dense)
    yield timed("dense", task, network, 1.0, start)
    for name, (each, method) in methods(config, seed).items():
        start, task = time.perf_counter(), Task(each, dataset, model, graph)
        last = pruned(task, method, network.variables)
        yield timed(name, task, rounds.network(method, last), last.progress.left(), start)


def main(config: Config) -> None:
    """Runs every fold and writes JSON and Markdown after each, so that nothing is lost."""
    start, provenance = time.perf_counter(), directory.provenance()
    config.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(config.seeds):
        for number in range(config.folds):
            for row in measure(config, seed, number):
                rows.append(row)
                mean = np.mean(row["log_likelihood"])
                print(f"fold {number} {row['method']}: {mean:.4f}, {row['seconds']} s", flush=True)
            lines = list(folds.tables(rows, (*CLAIMS, *QUESTIONS), config.draws))
            record = {
                "gates": configuration.to_json(config.gates),
                "lasso": configuration.to_json(config.lasso),
                "results": rows,
                "wall_time_s": round(time.perf_counter() - start, 1),
                **provenance,
            }
            directory.write_json(config.out.with_suffix(".json"), record)
            done = (
                f"After {number + 1} of {config.folds} folds, seed {seed} of {config.seeds} seeds"
            )
            text = [
                "# The orders of the papers on digits",
                "",
                f"{directory.made(provenance)} {done}.",
                "",
                *lines,
            ]
            config.out.with_suffix(".md").write_text("\n".join(text) + "\n", "utf-8")
    print("\n".join(folds.tables(rows, (*CLAIMS, *QUESTIONS), config.draws)))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.orders"))
