"""Puts a built site beside other versions of it: `python docs/versions.py HTML PAGES VERSION`."""

import re
import shutil
import sys
from pathlib import Path

RELEASE = re.compile(r"\d+(\.\d+)*")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={first}/">
<title>jaxprune</title>
<p>jaxprune, by version: {links}</p>
</html>
"""


def publish(html: Path, pages: Path, version: str) -> None:
    """Replaces the folder of a version, makes `stable` the newest release, and lists them all."""
    _replace(html, pages / version)
    releases = [path.name for path in pages.iterdir() if RELEASE.fullmatch(path.name)]
    releases.sort(key=lambda name: tuple(map(int, name.split("."))), reverse=True)
    if releases:
        _replace(pages / releases[0], pages / "stable")
    others = [name for name in ("stable", "main") if (pages / name).is_dir()]
    names = [*others, *releases] or [version]
    links = ", ".join(f'<a href="{name}/">{name}</a>' for name in names)
    (pages / "index.html").write_text(PAGE.format(first=names[0], links=links), encoding="utf-8")
    (pages / ".nojekyll").touch()  # else GitHub leaves out folders like _static


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
