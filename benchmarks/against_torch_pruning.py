"""Torch-Pruning 1.6.1 and jaxprune on the same networks, in turns, each in a process of its own.

Command: python -m benchmarks.against_torch_pruning [--torch PYTHON] [--rounds 5] [NETWORK ...]
Needs `pip install "torch-pruning==1.6.1" torch torchvision transformers`, in the environment of
PYTHON, and `pip install -e ".[foreign,experiments]"` in this one, as transformers 5 has no Flax
models. Writes benchmarks/results/against_torch_pruning.json and .md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "against_torch_pruning.json"
NETWORKS = (
    "ResNet-18", "ResNet-50", "ResNet-56", "VGG-16", "MobileNetV2", "ViT-Ti/16", "BERT, 4 layers"
)  # fmt: skip
STAGES = (
    "import", "build", "graph", "make_jaxpr", "score, select and cut", "first call",
    "plan and cut, cold", "plan and cut, warm", "process", "peak",
)  # fmt: skip
TEXT = """# Beside Torch-Pruning

Written by `python -m benchmarks.against_torch_pruning`. Both prune 40 % of every group by the
norm of all that belongs to a channel, the same networks with random weights, on the CPU. Each
side runs in a process of its own, in turns, so that both see the same machine, which is shared
and noisy: read the ratios. Medians over the rounds, wall-clock seconds. *Build* makes the network
and random weights; *graph* is `DependencyGraph` or `jp.linen.trace`; *score, select and cut* is
`pruner.step()`, or `jp.scores.l2`, `jp.select.per_group`, `jp.slice` and `jp.linen.resize`, which
compares the resized network with the traced one, equation by equation. *make_jaxpr* is JAX's own
share of both, which runs the Python code of the network: once for the graph and once for the cut,
more often where attributes are found by trying, as the heads of the transformers are, and once for
each derivative of its own. The *first call* compiles in JAX. *Plan and cut* is all from the graph
to the cut network, *cold* with the imports, *warm* for a second network of the same kind in the
same process. *Process* is the sum of everything in the first network and the imports, the first
call too; *peak* is memory in MB."""


def one(command: Sequence[str]) -> dict[str, float]:
    """Returns the numbers of one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    cold, warm = (_joined(found[run]) for run in ("cold", "warm"))
    work = [times["graph"] + times["score, select and cut"] for times in (cold, warm)]
    every = ("build", "graph", "score, select and cut", "first call")
    return {
        **{stage: cold[stage] for stage in (*every, "left")},
        "make_jaxpr": cold.get("make_jaxpr", 0.0),
        "import": found["import"],
        "import jaxprune": found.get("import jaxprune", 0.0),
        "plan and cut, cold": found["import"] + work[0],
        "plan and cut, warm": work[1],
        "without make_jaxpr, warm": work[1] - warm.get("make_jaxpr", 0.0),
        "process": found["import"] + sum(cold[stage] for stage in every),
        "peak": found["peak"],
    }


def _joined(times: dict[str, float]) -> dict[str, float]:
    parts = [times.pop(stage, 0.0) for stage in ("score and select", "cut")]
    return {"score, select and cut": sum(parts), **times}


def measured(name: str, torch: str, rounds: int) -> dict[str, Any]:
    """Returns the medians of both sides, which ran in turns."""
    sides = {
        "torch": [torch, str(ROOT / "benchmarks" / "against" / "torch_side.py"), name],
        "jax": [sys.executable, "-m", "benchmarks.against.jax_side", name],
    }
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, command in sides.items():
            runs[side].append(one(command))
    return {
        side: {key: statistics.median(run[key] for run in every) for key in every[0]}
        for side, every in runs.items()
    } | {"rounds": rounds}


def page(found: dict[str, Any], torch: str) -> str:
    """Returns the tables."""
    show = "from importlib.metadata import version as v; print('PyTorch', v('torch') + ', "
    show += "torchvision', v('torchvision') + ', Torch-Pruning', v('torch-pruning'))"
    theirs = subprocess.run([torch, "-c", show], capture_output=True, text=True, check=True).stdout
    ours = f"JAX {version('jax')}, Flax {version('flax')}, jaxprune {version('jaxprune')}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    ratios = [
        "plan and cut, cold", "plan and cut, warm", "without make_jaxpr, warm", "process", "peak"
    ]  # fmt: skip
    lines = [f"| jaxprune / Torch-Pruning | {' | '.join(ratios)} | rounds |"]
    lines.append("|---" * (len(ratios) + 2) + "|")
    for name, sides in found.items():
        parts = [f"{sides['jax'][key] / sides['torch'][key]:.2f}" for key in ratios]
        lines.append(f"| {name} | {' | '.join(parts)} | {sides['rounds']} |")
    head = ["network", "side", *STAGES, "parameters left"]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, sides in found.items():
        for side, label in (("torch", "Torch-Pruning"), ("jax", "jaxprune")):
            cells = [_shown(sides[side][stage], stage) for stage in STAGES]
            left = f"{sides[side]['left']:.1%}"
            lines.append(f"| {name} | {label} | {' | '.join(cells)} | {left} |")
    return "\n".join([TEXT, "", f"{machine}; {theirs.strip()}; {ours}.", "", *lines, ""])


def _shown(value: float, stage: str) -> str:
    if stage == "make_jaxpr" and not value:
        return ""
    return f"{value:.0f}" if stage == "peak" else f"{value:.2f}"


def main() -> None:
    """Measures the named networks, else all; the numbers of others stay."""
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.networks:
        done[name] = measured(name, options.torch, options.rounds)
        done = {name: done[name] for name in NETWORKS if name in done}
        RESULTS.write_text(json.dumps(done, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(page(done, options.torch))
        print(name, json.dumps(done[name]), flush=True)


if __name__ == "__main__":
    main()
