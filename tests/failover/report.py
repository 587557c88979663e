"""What the trials came to: a table, a picture, and docs/failover.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from tests.bench.generator import percentile
from tests.failover.trials import FAULTS, Trial

FIGURES: Final = {
    "change_s": "next change",
    "every_change_s": "next change, through every survivor",
    "write_stall_s": "longest pause of an initiator",
}
_COLOURS: Final = {"kill -9": "#1f6feb", "SIGSTOP": "#d29922", "partition": "#8250df"}
_DECADES: Final = (0.01, 0.1, 1.0, 10.0, 100.0)


def row(values: Sequence[float]) -> tuple[str, ...]:
    """How many, and their least, median, 90th percentile and greatest, in seconds."""
    figures = (min(values), median(values), percentile(values, 0.9), max(values))
    return (str(len(values)), *(f"{figure:.2f}" for figure in figures))


def table(trials: Sequence[Trial]) -> str:
    """A Markdown table of all trials."""
    lines = ["| fault | seconds from the fault to | n | min | median | p90 | max |", "|---|---|--:|--:|--:|--:|--:|"]
    for fault in FAULTS:
        of_fault = [trial for trial in trials if trial.fault == fault]
        for name, words in FIGURES.items() if of_fault else ():
            cells = " | ".join(row([getattr(trial, name) for trial in of_fault]))
            lines.append(f"| {fault} | {words} | {cells} |")
    return "\n".join(lines)


def picture(trials: Sequence[Trial]) -> str:
    """An SVG: a line for each fault and figure, a dot for each trial, a tick at the median, on a logarithmic scale."""
    rows = [(fault, name) for fault in FAULTS for name in FIGURES if any(trial.fault == fault for trial in trials)]
    left, width, line, top = 330, 560, 34, 40
    height = top + line * len(rows) + 44

    def x(seconds: float) -> float:
        low, high = math.log10(_DECADES[0]), math.log10(_DECADES[-1])
        at = min(max(seconds, _DECADES[0]), _DECADES[-1])
        return left + width * (math.log10(at) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="22" fill="#57606a">seconds from the fault (logarithmic); one dot a fault, a bar at the '
        "median</text>",
    ]
    bottom = top + line * len(rows)
    for decade in _DECADES:
        at = x(decade)
        parts.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle" fill="#57606a">{decade:g} s</text>')
    for number, (fault, name) in enumerate(rows):
        y = top + line * number + line / 2
        values = [getattr(trial, name) for trial in trials if trial.fault == fault]
        colour = _COLOURS[fault]
        parts.append(f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{fault}: {FIGURES[name]}</text>')
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y + (at % 5 - 2) * 4:.1f}" r="4" fill="{colour}" fill-opacity="0.55"/>'
            for at, value in enumerate(values)
        ]
        middle = x(median(values))
        parts.append(
            f'<line x1="{middle:.1f}" y1="{y - 13:.1f}" x2="{middle:.1f}" y2="{y + 13:.1f}" stroke="{colour}" '
            'stroke-width="3"/>'
        )
    return "\n".join([*parts, "</svg>", ""])


_DOCUMENT: Final = """\
# How long a failed node is felt

`make failover` writes this page: three real daemons, each in a network namespace of its own on one machine, over one
shared disk in a file (the fence is its locks), with all times as they are by default. One fault at a time befalls the
coordinator of the system disk. In the meantime each node has an initiator logged in to it, which

- **changes** something for the whole cluster, again and again: it registers a persistent reservation key that is to
  last over a power loss (APTPL). The coordinator keeps it on the shared disk, and every node that may act has heard of
  it before the initiator gets its answer. *Next change* is the time from the fault to the first answer, through any of
  the survivors, to a change that was begun after the fault; *through every survivor*, to the last of their first
  answers;
- **writes** a block to the disk (FUA) and waits for the answer, again and again. *Longest pause* is the longest time
  between two answers around the fault and its mending, of all survivors the longest.

Both pause for 20 ms between an answer and the next. No change and no write failed: they waited.

{table}

![the distribution](failover.svg)

What the figures are made of:

- **kill -9**: the process is gone, and so is the lock by which it held the disk: the successor gets that lock as soon
  as it asks, and has its proof. No lease is waited for. Before that the others have to notice (their links are reset at
  once) and to elect.
- **SIGSTOP**: the process is there, holds its lock, and does nothing. Nobody may act in its place before it is gone for
  certain: the watchdog of the kernel kills it when its lease is out (5 s), whether it runs or not, and with it goes the
  lock.
- **partition**: the node is cut off from the others, both ways, and sees the disk. It stops by itself when its lease is
  out, leaves the disk, and with that gives the proof.

## Measured on

The load average tells how busy the processors were with other things: three daemons in Python want a processor to
themselves when all of them elect, fence and begin at once, and the times of a kill grow with what they wait for.

{facts}
"""


def document(trials: Sequence[Trial], facts: Mapping[str, str]) -> str:
    """docs/failover.md."""
    return _DOCUMENT.format(table=table(trials), facts="\n".join(f"- {name}: {value}" for name, value in facts.items()))
