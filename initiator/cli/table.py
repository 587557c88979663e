"""A table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from initiator.cli.runtime import printable


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] = ()) -> None:
    """Print rows under a head, every column as wide as it must be; those in ``numbers`` are put to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if at in numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo(line.rstrip())
