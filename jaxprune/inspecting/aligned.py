"""Aligned columns and rules of tables in plain text."""

from collections.abc import Iterable, Iterator, Sequence


def table(rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> list[str]:
    """Returns aligned lines; the columns in `numbers` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = set(numbers)
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def ruled(lines: Sequence[str], *, after: Iterable[int]) -> Iterator[str]:
    """Yields lines, with a rule after those at the places `after`."""
    rule = "-" * max(map(len, lines))
    after = set(after)
    for index, line in enumerate(lines):
        yield line
        if index in after:
            yield rule
