"""Peak memory of scoring and slicing a checkpoint in files, beside its largest piece.

Command: python -m benchmarks.streaming [--source orbax] [--out orbax] [layers width hidden rows]
Writes stacked gated MLPs with an embedding in bfloat16: a file of safetensors for each tensor, or
what `jp.save` writes with Orbax. One process scores them, `jp.scores.l2`, and slices them,
`jp.slice_stored`, into safetensors or Orbax; another one slices them and is killed in the middle by
SIGKILL, and a third goes on. A piece is one layer of a stacked tensor, or 8 MB of another one.
Memory is the growth of the peak resident memory (VmHWM, which counts pages of files too) above that
after imports and the trace, in MB of 10^6 bytes. The script fails where the growth exceeds two
pieces, or the two slices differ by a bit. Linux.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

import jaxprune as jp
from jaxprune.arguments.stored_arrays import PIECE

SIZES = (4, 2048, 8192, 16384)


def network(v: Any, x: jax.Array) -> jax.Array:
    """Returns [batch, rows]: gated MLPs on a stream, stacked, between an embedding and its like."""

    def layer(x: jax.Array, v: Any) -> tuple[jax.Array, None]:
        return x + (jax.nn.silu(x @ v["gate"]) * (x @ v["up"])) @ v["down"], None

    return jax.lax.scan(layer, v["embedding"][x], v["layers"])[0] @ v["head"]


def shapes(layers: int, width: int, hidden: int, rows: int) -> Any:
    """Returns the variables as shapes."""

    def struct(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    stacked = {
        "gate": struct(layers, width, hidden),
        "up": struct(layers, width, hidden),
        "down": struct(layers, hidden, width),
    }
    return {"embedding": struct(rows, width), "head": struct(width, rows), "layers": stacked}


def write(sizes: tuple[int, ...], folder: str, source: str) -> None:
    """Writes random bits."""
    Path(folder).mkdir()
    tree, made = shapes(*sizes), []
    for number, (key, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        random = np.random.default_rng(number)
        bits = random.integers(0x3F00, 0x3F80, size=leaf.shape, dtype=np.uint16)
        name = jax.tree_util.keystr(key, simple=True, separator=".")
        if source == "safetensors":
            save_file({name: bits.view(jnp.bfloat16)}, f"{folder}/{name}.safetensors")
        else:
            made.append(bits.view(jnp.bfloat16))
    if made:
        spec = {"format": 1, "groups": {}, "versions": {}}
        jp.save(folder, jax.tree.unflatten(jax.tree.structure(tree), made), spec)


def status(key: str) -> float:
    """Returns a size of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e6


def measured(what: str, fn: Callable[[], Any]) -> Any:
    """Returns what `fn` gives; prints its seconds and by what the peak memory grew."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here
    before, start = status("VmRSS"), time.perf_counter()
    found = fn()
    seconds = time.perf_counter() - start
    print(json.dumps({"what": what, "MB": status("VmHWM") - before, "s": seconds}), flush=True)
    return found


def child(sizes: tuple[int, ...], source: str, target: str, out: str) -> None:
    """Scores and slices, and prints what that takes."""
    from orbax.checkpoint import v1  # noqa: F401  # that its import is not measured

    tree = shapes(*sizes)
    graph = jp.trace(network, tree, jax.ShapeDtypeStruct((1,), jnp.int32))
    stored = jp.open_variables(graph, source)
    scores = measured("jp.scores.l2", lambda: jp.scores.l2(graph, stored))
    keep = jp.select.per_group(graph, scores, prune_ratio=0.5)

    def sliced() -> None:
        jp.slice_stored(graph, stored, keep, target, format=out)

    measured("jp.slice_stored", sliced)


def started(sizes: tuple[int, ...], *given: str | Path) -> subprocess.Popen[str]:
    """Starts a process of this file."""
    command = [sys.executable, "-m", "benchmarks.streaming", *map(str, (*sizes, "--child", *given))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Returns what a process has measured."""
    text, _ = process.communicate()
    assert process.returncode == 0, process.returncode
    return [json.loads(line) for line in text.splitlines()]


def kill_in_the_middle(process: subprocess.Popen[str], target: Path) -> int:
    """Kills a slice once it has written some of the tensors; returns how many."""
    journal = Path(f"{target}.partial/journal.jsonl")
    while process.poll() is None:
        if journal.exists() and (lines := journal.read_text().count("\n")) > 2:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return lines - 1
        time.sleep(0.01)
    raise AssertionError("it was too fast to be killed")


def main(sizes: tuple[int, ...], source: str, out: str) -> None:
    """Prints the table."""
    layers, width, hidden, rows = sizes
    piece = max(PIECE, 2 * width * hidden) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = Path(folder, "whole"), Path(folder, "resumed")
        finished(started(sizes, "write", f"{folder}/source", source))
        total = sum(2 * leaf.size for leaf in jax.tree.leaves(shapes(*sizes))) / 1e6
        largest = 2 * max(layers * width * hidden, rows * width) / 1e6
        print(
            f"From {source} to {out}: {total:.0f} MB in bfloat16; largest tensor {largest:.0f} MB, "
            f"largest piece {piece:.0f} MB\n\n"
            "| what | seconds | peak memory above the trace, MB | in pieces |\n|---|---|---|---|"
        )
        runs = finished(started(sizes, f"{folder}/source", whole, out))
        count = kill_in_the_middle(started(sizes, f"{folder}/source", resumed, out), resumed)
        again = finished(started(sizes, f"{folder}/source", resumed, out))[1]
        again["what"] += f", on from {count} of 5 tensors after SIGKILL"
        for run in (*runs, again):
            print(f"| {run['what']} | {run['s']:.1f} | {run['MB']:.0f} | {run['MB'] / piece:.2f} |")
            assert run["MB"] <= 2 * piece, run
        both = [jax.tree.leaves(jp.restore(place).variables) for place in (whole, resumed)]
        for first, second in zip(*both, strict=True):
            assert first.tobytes() == second.tobytes()
        print("\nthe resumed slice is the whole one, bit by bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", choices=("safetensors", "orbax"), default="safetensors")
    parser.add_argument("--out", choices=("safetensors", "orbax"), default="safetensors")
    parser.add_argument("--child", nargs=3, default=(), help=argparse.SUPPRESS)
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES)
    args = parser.parse_args()
    if args.child[:1] == ["write"]:
        write(tuple(args.sizes), *args.child[1:])
    elif args.child:
        child(tuple(args.sizes), *args.child)
    else:
        main(tuple(args.sizes), args.source, args.out)
