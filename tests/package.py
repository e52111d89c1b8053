"""What wheel and sdist hold, against what git knows: `python tests/package.py DIST`."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = (".ci", ".github", "benchmarks", "docs", "experiments", "jaxprune", "tests")
"""The folders that the tests run or read."""

RELATIVE = re.compile(r"(?:\]\(|(?:src|srcset)=\")(?!https:|#)[^)\"]+")
"""Links and pictures that lead nowhere from outside of the repository."""


def main(dist: Path) -> None:
    """Ends the program where a file is missing, or one too many."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *NEEDED],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    known = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    _same("wheel", in_wheel(wheel), {name for name in known if name.startswith("jaxprune/")})
    _same("sdist", in_sdist(sdist), known)
    relative = RELATIVE.findall(description(wheel))
    if relative:
        raise SystemExit(f"The package index cannot follow {relative}. Fix: hatch_build.py.")
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def description(path: Path) -> str:
    """What the package index shows of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return wheel.read(name).decode()


def in_wheel(path: Path) -> set[str]:
    """The files of a wheel, without its metadata."""
    with zipfile.ZipFile(path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def in_sdist(path: Path) -> set[str]:
    """The files of the folders of an sdist."""
    with tarfile.open(path) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    return {name for name in names if "/" in name}


def _same(what: str, held: set[str], known: set[str]) -> None:
    for name in sorted(held ^ known):
        print(f"{what}: {'lacks' if name in known else 'should not hold'} {name}", file=sys.stderr)
    if held != known:
        raise SystemExit(f"The {what} does not hold what git knows. Fix: [tool.hatch.build].")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
