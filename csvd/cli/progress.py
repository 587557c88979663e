"""The progress of a migration on stderr, and its report at the end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any, Final, TextIO

from csvd.cli.output import plain, table
from csvd.config.values import format_size

_BAR_WIDTH: Final = 24
_CLEAR_LINE: Final = "\r\x1b[2K"


class ProgressBar:
    """Shows the progress of one migration: a line that is drawn again on a terminal, a line a round elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._shown: tuple[str, int] | None = None

    def show(self, progress: dict[str, Any]) -> None:
        """Show where it is."""
        line = progress_line(progress)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            self._stream.write(_CLEAR_LINE + line[: width - 1])
        elif self._shown != (progress["state"], progress["round"]):
            self._shown = (progress["state"], progress["round"])
            self._stream.write(line + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away again."""
        if self._is_terminal:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()


def progress_line(progress: dict[str, Any]) -> str:
    """One line: state, how much is in place, what is left, and how fast."""
    percent = max(0.0, min(100.0, progress["percent"]))
    filled = round(_BAR_WIDTH * percent / 100)
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    downtime_ms = progress["expected_downtime_ms"]
    parts = [
        f"{plain(progress['guest'])} -> {progress['destination']}  {progress['state']:<10} [{bar}] {percent:3.0f}%",
        f"left {format_size(progress['remaining_bytes'])}",
        f"dirty {format_size(progress['dirty_bytes_per_s'])}/s",
        f"sent {format_size(progress['throughput_bytes_per_s'])}/s",
        "downtime ?" if downtime_ms is None else f"downtime {downtime_ms:.0f} ms",
    ]
    return "  ".join(parts)


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The report of a migration that is over, for people."""
    way = f"{report['source']} -> {report['destination']}"
    yield f"guest {plain(report['guest'])}  {way}  {report['state']} in {report['total_s']:.2f} s"
    if report["reason"]:
        yield f"why: {plain(report['reason'])}"
    yield ""
    if report["rounds"]:
        yield table(
            ("ROUND", "PAGES", "DIRTY", "ZERO", "SENT", "TIME", "THROUGHPUT", "DIRTIED"),
            [_round(one) for one in report["rounds"]],
        )
        yield ""
    memory, sent = format_size(report["memory_bytes"]), format_size(report["bytes_sent"])
    yield f"memory {memory}, sent {sent}, {report['zero_pages_elided']} pages of zeros left out"
    if report["downtime_ms"] is not None:
        yield f"downtime {report['downtime_ms']:.1f} ms ({plain(report['downtime_measured'])})"
    yield f"written pages were found by: {plain(report['tracker']) or '-'}"
    for note in report["notes"]:
        yield f"note: {plain(note)}"


def _round(one: dict[str, Any]) -> tuple[object, ...]:
    dirtied = one["dirty_bytes_per_s"]
    return (
        f"{one['number']} (stopped)" if one["is_last"] else one["number"],
        one["pages_scanned"],
        one["pages_dirty"],
        one["pages_zero"],
        format_size(one["bytes_sent"]),
        f"{one['seconds']:.3f} s",
        f"{format_size(one['throughput_bytes_per_s'])}/s",
        "-" if dirtied is None else f"{format_size(dirtied)}/s",
    )
