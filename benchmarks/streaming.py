"""Peak memory of scoring and slicing a checkpoint in files, beside its largest piece.

Command: python -m benchmarks.streaming [layers width hidden rows]
Writes stacked gated MLPs with an embedding in bfloat16, a file of safetensors for each tensor. One
process scores them, `jp.scores.l2`, and slices them, `jp.slice_stored`; another one slices them and
is killed in the middle by SIGKILL, and a third goes on. A piece is one layer of a stacked tensor,
or 8 MB of another one. Memory is the growth of the peak resident memory (VmHWM, which counts pages
of files too) above that after the trace, in MB of 10^6 bytes. The script fails where the growth
exceeds two pieces, or the two slices differ by a bit. Linux.
"""

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


def write(folder: Path, tree: Any) -> int:
    """Writes random bits, a file for each tensor; returns the bytes."""
    total = 0
    for number, (key, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        random = np.random.default_rng(number)
        bits = random.integers(0x3F00, 0x3F80, size=leaf.shape, dtype=np.uint16)
        name = jax.tree_util.keystr(key, simple=True, separator=".")
        save_file({name: bits.view(jnp.bfloat16)}, folder / f"{name}.safetensors")
        total += bits.nbytes
    return total


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


def child(sizes: tuple[int, ...], source: str, target: str) -> None:
    """Scores and slices, and prints what that takes."""
    tree = shapes(*sizes)
    graph = jp.trace(network, tree, jax.ShapeDtypeStruct((1,), jnp.int32))
    stored = jp.open_variables(graph, source)
    scores = measured("jp.scores.l2", lambda: jp.scores.l2(graph, stored))
    keep = jp.select.per_group(graph, scores, prune_ratio=0.5)
    measured("jp.slice_stored", lambda: jp.slice_stored(graph, stored, keep, target))


def started(sizes: tuple[int, ...], source: Path, target: Path) -> subprocess.Popen[str]:
    """Starts a child."""
    command = [sys.executable, "-m", "benchmarks.streaming", "child", str(source), str(target)]
    return subprocess.Popen([*command, *map(str, sizes)], stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Returns what a child has measured."""
    text, _ = process.communicate()
    assert process.returncode == 0, process.returncode
    return [json.loads(line) for line in text.splitlines()]


def kill_in_the_middle(sizes: tuple[int, ...], source: Path, target: Path) -> int:
    """Kills a slice once it has written half of the tensors; returns how many."""
    process, journal = started(sizes, source, target), Path(f"{target}.partial/journal.jsonl")
    while process.poll() is None:
        if journal.exists() and (lines := journal.read_text().count("\n")) > 2:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return lines - 1
        time.sleep(0.01)
    raise AssertionError("it was too fast to be killed")


def main(sizes: tuple[int, ...]) -> None:
    """Prints the table."""
    layers, width, hidden, rows = sizes
    piece = max(PIECE, 2 * width * hidden) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        total = write(source, shapes(*sizes)) / 1e6
        largest = 2 * max(layers * width * hidden, rows * width) / 1e6
        print(
            f"{total:.0f} MB in bfloat16; largest tensor {largest:.0f} MB, largest piece "
            f"{piece:.0f} MB\n\n| what | seconds | peak memory above the trace, MB | in pieces |\n"
            "|---|---|---|---|"
        )
        runs = finished(started(sizes, source, Path(folder, "whole")))
        count = kill_in_the_middle(sizes, source, Path(folder, "resumed"))
        again = finished(started(sizes, source, Path(folder, "resumed")))[1]
        again["what"] += f", on from {count} of {5} tensors after SIGKILL"
        for run in (*runs, again):
            print(f"| {run['what']} | {run['s']:.1f} | {run['MB']:.0f} | {run['MB'] / piece:.2f} |")
            assert run["MB"] <= 2 * piece, run
        for name in sorted(os.listdir(Path(folder, "whole"))):
            whole, resumed = Path(folder, "whole", name), Path(folder, "resumed", name)
            assert whole.read_bytes() == resumed.read_bytes(), name
        print("\nthe resumed slice is the whole one, byte by byte")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(tuple(map(int, sys.argv[4:])), sys.argv[2], sys.argv[3])
    else:
        main(tuple(map(int, sys.argv[1:])) or SIZES)
