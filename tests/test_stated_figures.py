"""What README and site state in figures stands in the results that the same section names."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = [
    page for name in ("*.md", "concepts/*.md", "howto/*.md") for page in ROOT.glob(f"docs/{name}")
]
PAGES = [ROOT / "README.md", *sorted(DOCS)]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SOURCE = re.compile(r"results/([\w/]+)\.md")
COMMAND = re.compile(r"`(?:python|pytest|du) [^`]+`")
DIGITS = r"\d[\d,]*(?:\.\d+)?"
NUMBER = rf"(?<![\w.,-]){DIGITS}"
RANGE = rf"({NUMBER})(?: (?:to|and) ({NUMBER}))?"
STATED = re.compile(rf"{RANGE} ?(?:%|points|nats|times|ms|s|seconds|minutes|MB|GB)(?!\w)")
CELL = re.compile(rf"^{RANGE}$")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def sections(text: str) -> list[str]:
    """Returns the text between headings, without code."""
    return re.split(r"^#+ ", FENCE.sub("", text), flags=re.MULTILINE)


def stated(section: str) -> Iterator[str]:
    """Yields the numbers of measured things, in prose with a unit, in tables alone in a cell."""
    lines = section.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    for cell in (cell.strip() for row in rows for cell in row.split("|")):
        yield from (number for found in CELL.finditer(cell) for number in found.groups() if number)
    prose = re.sub(r"`[^`]*`", "", " ".join(line for line in lines if line not in rows))
    for found in STATED.finditer(prose):
        yield from (number for number in found.groups() if number)


def stands(number: str, text: str) -> bool:
    """True where the text has that number, or a share whose percents they are, rounded."""
    value = float(number.replace(",", ""))
    near = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
    others = [float(found.replace(",", "")) for found in re.findall(DIGITS, text)]
    return any(abs(value - scale * other) <= near for other in others for scale in (1, 100))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_figures_stand_in_the_results_that_their_section_names(page: Path) -> None:
    for section in sections(page.read_text("utf-8")):
        figures = list(stated(section))
        sources = [RESULTS / f"{name}.md" for name in SOURCE.findall(section)]
        text = "\n".join(path.read_text("utf-8") for path in sources if path.is_file())
        if text:
            assert [number for number in figures if not stands(number, text)] == [], section
        elif figures:
            assert COMMAND.search(section), section


@pytest.mark.parametrize("page", sorted(RESULTS.rglob("*.md")), ids=_name)
def test_every_page_of_results_names_its_command(page: Path) -> None:
    assert re.search(r"python -m\s+(?:benchmarks|experiments)", page.read_text("utf-8"))


def test_a_figure_without_a_source_is_found() -> None:
    assert list(stated("It takes 12.5 s, and 3 to 4 % of `5 s`.\n| a | 98.5 to 99 |")) == [
        "98.5",
        "99",
        "12.5",
        "3",
        "4",
    ]
    assert stands("95.6", "| 95.58 |")
    assert stands("15", "at 0.15 of it")
    assert not stands("95.6", "| 95.68 | 1,956 |")
