"""``csvd stats``: what the commands of a node came to."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table
from csvd.config.values import format_size

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

Json = dict[str, Any]

PAUSE_S: Final = 2.0
_KINDS: Final = {"lun": "units", "command": "commands", "session": "sessions"}


@click.command(short_help="What the commands of a node came to.")
@click.option(
    "--by",
    type=click.Choice(["lun", "command", "session"]),
    default="lun",
    show_default=True,
    help="What the rows of the table are.",
)
@click.option("--watch", is_flag=True, help="Show what is added every two seconds, until Ctrl-C.")
@asks_daemon
def stats(client: ControlClient, as_json: bool, by: str, watch: bool) -> None:
    """Show how many commands there were, how much data they moved, how long they took, and what went wrong.

    Since the daemon was started, or the logical unit was added; times are those below which half, 99 and 99.9 in a
    hundred commands were done, to the next power of two. With --watch, rates a second.

    \b
    Examples:
      csvd stats
      csvd stats --by command
      csvd stats --watch
    """
    before: dict[tuple[object, ...], Json] = {}
    before_s = 0.0
    while True:
        answer, now_s = client.statistics(), time.monotonic()
        if as_json:
            print_json(answer)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            seconds = now_s - before_s if before_s else 0.0
            click.echo(_table(answer, by, before, seconds if watch else 0.0))
        if not watch:
            return
        before = {_key(one): one for one in answer[_KINDS[by]]}
        before_s = now_s
        sys.stdout.flush()
        time.sleep(PAUSE_S)


def _key(one: Json) -> tuple[object, ...]:
    return tuple(one.get(name) for name in ("target", "lun", "command", "initiator", "tsih"))


def _table(answer: Json, by: str, before: dict[tuple[object, ...], Json], seconds: float) -> str:
    rows = [_row(one, by, before.get(_key(one)), answer["bounds_s"], seconds) for one in answer[_KINDS[by]]]
    what = {"lun": ("LUN",), "command": ("LUN", "COMMAND"), "session": ("TSIH", "INITIATOR")}[by]
    rate = "/s" if seconds else ""
    head = ("TARGET", *what, f"COMMANDS{rate}", f"IN{rate}", f"OUT{rate}", "50 %", "99 %", "99.9 %", "ERRORS")
    return table(head, rows)


def _row(one: Json, by: str, before: Json | None, bounds_s: Sequence[float], seconds: float) -> tuple[object, ...]:
    what = {"lun": ("lun",), "command": ("lun", "command"), "session": ("tsih", "initiator")}[by]
    if before is not None and before["count"] <= one["count"] and seconds:
        buckets = [now - then for now, then in zip(one["buckets"], before["buckets"], strict=True)]
        errors = {name: count - before["errors"].get(name, 0) for name, count in one["errors"].items()}
        counts = [(one[name] - before[name]) / seconds for name in ("count", "bytes_in", "bytes_out")]
    else:
        buckets, errors = one["buckets"], one["errors"]
        counts = [one["count"], one["bytes_in"], one["bytes_out"]]
    times = [_time(quantile_s(buckets, bounds_s, part)) for part in (0.5, 0.99, 0.999)]
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(errors.items()) if count)
    size_in, size_out = format_size(counts[1]), format_size(counts[2])
    return (one["target"], *(one[name] for name in what), f"{counts[0]:.0f}", size_in, size_out, *times, told)


def quantile_s(buckets: Sequence[int], bounds_s: Sequence[float], part: float) -> float | None:
    """The bound below which this part of the commands was done; None without commands, and beyond the last bound."""
    total, below = sum(buckets), 0
    for bound_s, count in zip(bounds_s, buckets, strict=False):
        below += count
        if total and below >= part * total:
            return bound_s
    return None


def _time(value_s: float | None) -> str | None:
    if value_s is None:
        return None
    return next(_units(value_s))


def _units(value_s: float) -> Iterator[str]:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value_s >= scale:
            yield f"{value_s / scale:.1f} {unit}"
    yield f"{value_s / 1e-6:.0f} µs"
