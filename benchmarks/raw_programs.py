"""Prints a raw program of the laws, and how they fail on it, if they do.

Command: python -m benchmarks.raw_programs 17  (or a range: 0-60, of which only failures are named)

The program is cut to the fewest blocks that still fail. What is printed is enough to write it down
elsewhere: the blocks with their choices and their code, the variables, the jaxpr.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import conftest  # noqa: E402, F401  eight CPU devices, before JAX starts
import raw_laws  # noqa: E402
import raw_programs  # noqa: E402


def show(index: int) -> None:
    """Prints one program, whole or as far as it fails."""
    names, seed = raw_programs.dealt(index)
    if raw_laws.failure(names, seed):
        names = raw_laws.smallest(names, seed)
    with raw_laws.world():
        print(raw_programs.source(raw_programs.program(names, seed)))
    print(raw_laws.failure(names, seed) or "all laws hold")


def survey(indices: range) -> int:
    """Prints what fails of many programs, a line each; returns how many do."""
    failed = 0
    for index in indices:
        names, seed = raw_programs.dealt(index)
        found = raw_laws.failure(names, seed)
        if found:
            failed += 1
            print(index, raw_laws.smallest(names, seed), " ".join(found.split())[:200], flush=True)
    print(f"{failed} of {len(indices)} programs fail")
    return failed


if __name__ == "__main__":
    first, _, end = sys.argv[1].partition("-")
    if end:
        sys.exit(bool(survey(range(int(first), int(end)))))
    show(int(first))
