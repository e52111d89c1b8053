"""Breaks every module that decides a verdict, a cut or a count; a test must fail each time.

Command: python -m benchmarks.mutations  (--only graph keep/check, --sample 20, --jobs 2, --again)
Writes:  benchmarks/results/mutations.md
Time:    about an hour on two CPU cores

Of each module a sample of faults is drawn, always the same, in equal parts of every kind: a
comparison, a constant, an operator, swapped arguments, a dropped statement, and so on. Each faulty
module is put in the place of the right one, and the tests that guard it run until one fails. What
they let pass is listed with its diff; benchmarks/survivors.toml says why that is not a fault, or
the list says UNEXPLAINED. Results are kept in runs/mutations.jsonl until the module or its tests
change, so that an interrupted run goes on and `--only` adds to the list; `--again` forgets them.

Every mutant is tried in a process of its own, forked from one that has imported JAX and not yet
this library, and programs that were compiled before are read from a cache.
"""

import argparse
import hashlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import flax.linen  # noqa: E402  what the tests import, once for all mutants
import flax.nnx  # noqa: E402, F401
import jax  # noqa: E402
import optax  # noqa: E402, F401
import pytest  # noqa: E402

import conftest  # noqa: E402, F401
from benchmarks.guards import ELSEWHERE, GUARDS  # noqa: E402
from benchmarks.mutants import Mutant, mutants  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "mutations.md"
KEPT = ROOT / "runs" / "mutations.jsonl"
CACHE = ROOT / "runs" / "mutations_cache"
SURVIVORS = ROOT / "benchmarks" / "survivors.toml"


class Found(NamedTuple):
    """What became of a mutant: it is refused, which time may do too, or survives."""

    module: str
    fault: str
    diff: str
    verdict: str
    seconds: float


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads a module of the library from a faulty source."""

    def __init__(self, module: str, source: str):
        self.name, self.source = f"jaxprune.{module.replace('/', '.')}", source

    def find_spec(self, fullname: str, *_: Any) -> Any:
        """Finds the one module."""
        if fullname == self.name:
            return importlib.util.spec_from_loader(fullname, self, origin=path_of(self.name[9:]))
        return None

    def exec_module(self, module: Any) -> None:
        """Runs the faulty source."""
        module.__file__ = path_of(self.name[9:])
        exec(compile(self.source, module.__file__, "exec"), module.__dict__)


def path_of(module: str) -> str:
    """Returns the path of a module of the library."""
    return str(ROOT / "jaxprune" / f"{module.replace('.', '/')}.py")


def arguments(module: str) -> list[str]:
    """Returns what pytest is called with."""
    files = [name if "/" in name else f"tests/{name}.py" for name in GUARDS[module]]
    # pytest would load files that it is given itself, to rewrite their assertions
    return ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *files]


def start(module: str, source: str) -> int:
    """Forks a process that runs the tests of a module with another source; returns its id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    status = 3
    try:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        sys.meta_path.insert(0, Planted(module, source))
        status = int(pytest.main(arguments(module)))
    finally:
        os._exit(status)


class Running(NamedTuple):
    """A mutant that is being tried."""

    module: str
    mutant: Mutant
    since: float
    limit: float


def tried(
    todo: Iterator[tuple[str, Mutant, float]], jobs: int
) -> Iterator[tuple[str, Mutant, Found]]:
    """Tries mutants, `jobs` at a time; yields what became of them."""
    running: dict[int, Running] = {}
    while True:
        while len(running) < jobs and (following := next(todo, None)):
            module, mutant, limit = following
            running[start(module, mutant.source)] = Running(module, mutant, time.time(), limit)
        if not running:
            return
        for process, item in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            seconds = time.time() - item.since
            if not ended and seconds > item.limit:
                os.killpg(process, signal.SIGKILL)
            if ended:
                del running[process]
                verdict = "refused" if status else "survives"
                found = Found(item.module, *item.mutant[::2], verdict, round(seconds, 1))
                yield item.module, item.mutant, found
        time.sleep(0.02)


def kept_results() -> dict[str, Found]:
    """Returns {key: result} of earlier runs."""
    if not KEPT.exists():
        return {}
    lines = map(json.loads, KEPT.read_text().splitlines())
    return {line.pop("key"): Found(**line) for line in lines}


def key(module: str, mutant: Mutant) -> str:
    """Returns what says that a mutant was tried by the same tests."""
    tests = [Path(ROOT, name).read_text() for name in arguments(module) if name.endswith(".py")]
    return hashlib.sha256("\0".join([module, mutant.source, *tests]).encode()).hexdigest()


def sampled(module: str, count: int) -> list[Mutant]:
    """Returns the mutants of a module, always the same."""
    seed = int.from_bytes(hashlib.sha256(module.encode()).digest()[:4])
    return mutants(Path(path_of(module)).read_text(), count, seed)


def baseline(module: str) -> float:
    """Returns how long the tests take on the module as it is; they must pass."""
    source = Path(path_of(module)).read_text()
    since = time.time()
    _, status = os.waitpid(start(module, source), 0)
    if status:
        raise SystemExit(f"{module}: pytest {' '.join(arguments(module))} fails as it is.")
    return time.time() - since


def planned(plan: Mapping[str, Sequence[Mutant]]) -> Iterator[tuple[str, Mutant, float]]:
    """Yields the mutants that were not tried before, with the time that their tests may take."""
    done = kept_results()
    for module, every in plan.items():
        fresh = [mutant for mutant in every if key(module, mutant) not in done]
        limit = 30 + 5 * baseline(module) if fresh else 0.0
        yield from ((module, mutant, limit) for mutant in fresh)


def unlisted() -> list[str]:
    """Returns the modules of the library that stand in neither table."""
    package = ROOT / "jaxprune"
    names = [str(path.relative_to(package).with_suffix("")) for path in package.rglob("*.py")]
    elsewhere = {name for names in ELSEWHERE for name in names.split()}
    return sorted(
        name
        for name in names
        if name not in GUARDS
        and not name.endswith("__init__")
        and not any(f"{name}/".startswith(f"{other}/") for other in elsewhere)
    )


def explained() -> dict[tuple[str, str], str]:
    """Returns {(module, diff): why a survivor is not a fault}."""
    if not SURVIVORS.exists():
        return {}
    items = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {(item["module"], _normal(item["diff"])): item["why"] for item in items}


def _normal(diff: str) -> str:
    return "\n".join(line.rstrip() for line in diff.strip("\n").splitlines())


def report(found: Sequence[Found], sample: int) -> tuple[str, int]:
    """Returns the text of all results, and how many survivors are not explained."""
    why = explained()
    rows, survivors, left = [], [], 0
    for module in dict.fromkeys(item.module for item in found):
        here = [item for item in found if item.module == module]
        alive = [item for item in here if item.verdict == "survives"]
        open_ = [item for item in alive if (module, _normal(item.diff)) not in why]
        left += len(open_)
        counts = (len(here), len(here) - len(alive), len(alive) - len(open_), len(open_))
        rows.append(f"| {module} | {' | '.join(map(str, counts))} |")
        survivors += [
            f"### {module}: {item.fault}\n\n```diff\n{item.diff}\n```\n\n"
            f"{why.get((module, _normal(item.diff)), 'UNEXPLAINED')}\n"
            for item in alive
        ]
    text = [
        "# Mutants of the modules that decide\n",
        f"`python -m benchmarks.mutations --sample {sample}`, JAX {jax.__version__}: "
        f"{len(found)} mutants, "
        f"{sum(item.verdict != 'survives' for item in found)} refused by the tests.\n",
        "| module | mutants | refused | explained | not explained |\n|---|---|---|---|---|",
        *rows,
        "\n## What the tests let pass\n",
        *survivors,
    ]
    return "\n".join(text), left


def main() -> int:
    """Runs the command; returns 1 if a survivor is not explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(GUARDS), choices=list(GUARDS))
    parser.add_argument("--sample", type=int, default=14, help="mutants of each module")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "os.fork")  # no backend runs yet in this process
    KEPT.parent.mkdir(exist_ok=True)
    if options.again:
        KEPT.unlink(missing_ok=True)
    if left_out := unlisted():
        raise SystemExit(f"{left_out} are new.\nFix: enter them in GUARDS or in ELSEWHERE.")
    plan = {module: sampled(module, options.sample) for module in options.only}
    for module, mutant, found in tried(planned(plan), options.jobs):
        with KEPT.open("a") as file:
            file.write(json.dumps({"key": key(module, mutant), **found._asdict()}) + "\n")
        print(f"{module}: {found.fault}: {found.verdict} ({found.seconds} s)", flush=True)
        if found.verdict == "survives":
            print(found.diff, flush=True)
    done = kept_results()
    keys = [key(module, x) for module in GUARDS for x in sampled(module, options.sample)]
    text, left = report([done[item] for item in keys if item in done], options.sample)
    RESULTS.write_text(text)
    print(f"{left} survivors are not explained, see {RESULTS.relative_to(ROOT)}")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
