"""Chooses the tests of the normal run: all lines that the whole suite reaches, in the least time.

Command:   pip install pytest-cov && python -m benchmarks.suite  (--seconds 485, --measured)
Device:    CPU, 2 cores
CPU time:  half an hour
Writes:    tests/further.txt

Every test is run once; its CPU time and the lines of `jaxprune` and `experiments` that it reaches
are noted. In the normal run stay all of `ALWAYS`; what takes less than `QUICK` seconds; of every
test function the quickest case, if it takes less than `LONG` seconds; what alone reaches `LINES` or
more for each of its seconds; and after these the quickest of the others, as long as there are
seconds left. The rest is listed in `tests/further.txt`, by which `tests/conftest.py` marks it:
`pytest -m further` runs that, and `pytest -m ""` everything.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "runs" / "suite"
FURTHER = ROOT / "tests" / "further.txt"
TICK = 0.01
"""Seconds, of the clock of a process."""
QUICK = 0.05
"""Seconds of a test that the normal run has in any case."""
LONG = 0.6
"""Seconds of the quickest case of a function that the normal run may do without."""
LINES = 2
"""That a test must reach in a second, which no other test of the normal run reaches."""
ALWAYS = (
    "tests/test_anywhere.py::*processes*",
    "tests/test_budget.py::*",
    "tests/test_checkpoint_savers.py::*processes*",
    "tests/test_checkpoint_savers.py::test_a_save_that_dies*False*",
    "tests/test_import.py::*",
    "tests/test_laws.py::test_laws_hold_on_random_networks[[][0-3]]",
    "tests/test_new_method.py::test_it_trains*",
    "tests/test_reconstruction_laws.py::*",
    "tests/test_resume.py::test_a_run_killed*",
    "tests/test_rules.py::*",
    "tests/test_spec.py::*another_process*[[]1-images]",
    "tests/test_state.py::test_greedy*nnx*",
    "tests/test_stats_processes.py::*",
    "tests/test_traits.py::test_traits_hold*",
)
"""Laws of which the lines do not tell: what runs in processes of its own, random networks, and the
oracles of the primitives."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Notes the CPU time of a test, that of its child processes too."""
    before = sum(os.times()[:4])
    result = yield
    with (MEASURED / "times.jsonl").open("a") as file:
        file.write(json.dumps([item.nodeid, sum(os.times()[:4]) - before]) + "\n")
    return result


def measure() -> None:
    """Runs every test that is not marked as slow, with its time and its lines."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    for path in MEASURED.iterdir():
        path.unlink()
    settings = MEASURED / "coverage.ini"
    settings.write_text(f"[run]\nsource = jaxprune, experiments\ndata_file = {MEASURED}/lines\n")
    lines = ("--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report=")
    whole = ("-m", "not slow", "-p", "benchmarks.suite")
    subprocess.run([sys.executable, "-m", "pytest", "-q", *whole, *lines], cwd=ROOT, check=True)


def times() -> dict[str, float]:
    """Returns {test: CPU seconds}."""
    rows = map(json.loads, (MEASURED / "times.jsonl").read_text().splitlines())
    return {name: max(seconds, TICK) for name, seconds, *_ in rows}


def reached() -> dict[str, set[tuple[str, int]]]:
    """Returns {test: lines that it reaches}."""
    from coverage import CoverageData

    data = CoverageData(str(MEASURED / "lines"))
    data.read()
    lines = defaultdict[str, set[tuple[str, int]]](set)
    for path in data.measured_files():
        for line, contexts in data.contexts_by_lineno(path).items():
            for context in contexts:
                lines[context.rpartition("|")[0]].add((path, line))
    return dict(lines)


def chosen(
    seconds: Mapping[str, float], lines: Mapping[str, Collection[Any]], budget: float
) -> set[str]:
    """Returns the tests of the normal run.

    >>> seconds = {"a[0]": 0.5, "a[1]": 1.2, "b": 1.0, "c": 8.0, "d[0]": 0.1, "d[1]": 0.2}
    >>> sorted(chosen(seconds, {"a[0]": {1}, "a[1]": {1}, "b": {1, 2, 3}, "c": {1, 4}}, 2.5))
    ['a[0]', 'b', 'd[0]', 'd[1]']
    """
    quickest = sorted(seconds, key=seconds.__getitem__)
    first: dict[str, str] = {}
    for test in quickest:
        first.setdefault(test.partition("[")[0], test)
    stay = {test for test in first.values() if seconds[test] < LONG}
    stay |= {test for test in quickest if seconds[test] < QUICK or always(test)}
    left = _union(lines, seconds) - _union(lines, stay)
    while others := set(seconds) - stay:
        gain = {t: len(left.intersection(_of(lines, t))) / seconds[t] for t in others}
        best = max(gain, key=gain.__getitem__)
        if gain[best] < LINES:
            break
        stay.add(best)
        left -= set(_of(lines, best))
    spent = sum(seconds[test] for test in stay)
    for test in quickest:
        if test not in stay and spent + seconds[test] <= budget:
            stay.add(test)
            spent += seconds[test]
    return stay


def always(test: str) -> bool:
    """Whether a test is in the normal run whatever it takes."""
    return any(fnmatchcase(test, pattern) for pattern in ALWAYS)


def _of(lines: Mapping[str, Collection[Any]], test: str) -> Collection[Any]:
    return lines.get(test, ())


def _union(lines: Mapping[str, Collection[Any]], tests: Iterable[str]) -> set[Any]:
    return set().union(*(_of(lines, test) for test in tests))


def main() -> None:
    """Measures, chooses, writes the list and prints what the normal run takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=485.0, help="CPU time of the normal run")
    parser.add_argument("--measured", action="store_true", help="choose from the last measurement")
    arguments = parser.parse_args()
    if not arguments.measured:
        measure()
    seconds = times()
    stay = chosen(seconds, reached(), arguments.seconds)
    FURTHER.write_text("".join(f"{test}\n" for test in sorted(set(seconds) - stay)))
    for name, tests in (("all", set(seconds)), ("normal run", stay)):
        print(f"{name}: {len(tests)} tests, {sum(seconds[test] for test in tests):.0f} CPU s")


if __name__ == "__main__":
    main()
