"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "�")


def print_json(value: Any) -> None:
    """Print one JSON value, indented."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def tell(answer: Any, sentence: str, *, as_json: bool) -> None:
    """Print what a command has done: what the daemon answered as JSON, or a sentence for people."""
    if as_json:
        print_json(answer)
    else:
        click.echo(plain(sentence))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines of columns as wide as they need to be; numbers at the right, all else at the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    is_number = [
        bool(cells) and all(row[column].replace(".", "").isdigit() or row[column] == "-" for row in cells)
        for column in range(len(header))
    ]
    lines = [list(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return plain(str(value))


def plain(text: str) -> str:
    """A text that another program gave, without what would move the cursor of a terminal."""
    return text.translate(_CONTROL)
