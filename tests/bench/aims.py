"""What the data path must reach, and whether the figures of a run reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.bench.limits import IN_PYTHON
from tests.bench.rows import OURS, THEIRS
from tests.bench.samples import CPU_PER_MILLION, Samples, Spread

RATE: Final = "requests_per_s"
DIGESTS: Final = (
    ("read", "aligned-read-256k-d32", "digest-read-256k"),
    ("write", "write-256k-d32", "digest-write-256k"),
)
"""What is compared: a word for it, its row without digests and its row with them."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One thing that must be reached.

    Args:
        measured: draws the figure from the samples; None where they lack it.
        bound: what it must reach: from below, or from above if `is_most`.
        unit: follows the figure.
        is_strict: the bound itself is not enough.
    """

    text: str
    measured: Callable[[Samples], float | None]
    bound: float
    unit: str = " ×"
    is_most: bool = False
    is_strict: bool = False

    @property
    def required(self) -> str:
        sign = ("<" if self.is_strict else "≤") if self.is_most else ("&gt;" if self.is_strict else "≥")
        return f"{sign} {self.bound:g}{self.unit}"

    def is_met(self, value: float) -> bool:
        if value == self.bound:
            return not self.is_strict
        return value < self.bound if self.is_most else value > self.bound


def _middle(spread: Spread | None) -> float | None:
    return None if spread is None else spread.median


def to_peer(row: str, figure: str = RATE) -> Callable[[Samples], float | None]:
    """Ours to theirs."""
    return lambda samples: _middle(samples.ratio((row, OURS, figure), (row, THEIRS, figure)))


def digest_cost(plain: str, digests: str, target: str = OURS) -> Callable[[Samples], float | None]:
    """How many percent of the rate without digests are lost with them."""

    def measured(samples: Samples) -> float | None:
        ratio = samples.ratio((digests, target, RATE), (plain, target, RATE))
        return None if ratio is None else (1 - ratio.median) * 100

    return measured


def to_fdatasync(target: str = OURS) -> Callable[[Samples], float | None]:
    """FUA writes to one pwrite and fdatasync after another."""
    return lambda samples: _middle(
        samples.ratio(("fua-write-4k-d32", target, RATE), ("file-durable-4k", IN_PYTHON, RATE))
    )


def _at(row: str, figure: str, target: str = OURS) -> Callable[[Samples], float | None]:
    return lambda samples: _middle(samples.spread(row, target, figure))


def _most(figure: str) -> Callable[[Samples], float | None]:
    return lambda samples: samples.most(OURS, figure)


def _worst(row: str, figure: str) -> Callable[[Samples], float | None]:
    return lambda samples: max(samples.values(row, OURS, figure).values(), default=None)


PEER: Final = (
    ("4 KiB read, depth 32, from any sector", "read-4k-d32", 2.0),
    ("4 KiB read, depth 32, aligned", "aligned-read-4k-d32", 2.0),
    ("4 KiB read, depth 1, from any sector", "read-4k-d1", 1.0),
    ("4 KiB read, depth 1, aligned", "aligned-read-4k-d1", 1.0),
    ("4 KiB write, depth 32", "write-4k-d32", 1.5),
    ("4 KiB write, depth 1", "write-4k-d1", 1.0),
    ("256 KiB read, depth 32, from any sector", "read-256k-d32", 1.0),
    ("256 KiB read, depth 32, aligned", "aligned-read-256k-d32", 1.0),
    ("256 KiB write, depth 32", "write-256k-d32", 1.0),
    ("1 MiB read, depth 32, from any sector", "read-1m-d32", 1.0),
    ("1 MiB read, depth 32, aligned", "aligned-read-1m-d32", 1.0),
    ("1 MiB write, depth 32", "write-1m-d32", 1.0),
    ("70/30 mix of 8 sessions, in total", "mix-4k-8x8", 1.5),
)
SMALL: Final = (
    ("read, depth 1", "read-4k-d1"),
    ("read, depth 32", "read-4k-d32"),
    ("write, depth 1", "write-4k-d1"),
    ("write, depth 32", "write-4k-d32"),
    ("command of the mix", "mix-4k-8x8"),
)
INITIATORS: Final = (
    ("4 KiB", "initiators-4k", "to_iscsi_perf", 0.8),
    ("256 KiB", "initiators-256k", "to_iscsi_perf", 0.9),
)
COPIES: Final = (("to a LUN", "copy-to-lun"), ("from a LUN", "copy-from-lun"))
AIMS: Final = (
    *(Aim(f"{load}: csvd to tgtd", to_peer(row), bound) for load, row, bound in PEER),
    *(
        Aim(f"data digests, 256 KiB {word}: cost", digest_cost(plain, with_digests), 35, " %", is_most=True)
        for word, plain, with_digests in DIGESTS
    ),
    Aim("FUA writes, depth 32, to one fdatasync after another", to_fdatasync(), 3.0),
    *(
        Aim(f"CPU of a 4 KiB {what}, to tgtd's", to_peer(row, CPU_PER_MILLION), 1.0, is_most=True, is_strict=True)
        for what, row in SMALL
    ),
    Aim("64 idle sessions add", _at("idle-sessions", "added_mib"), 64, " MiB", is_most=True, is_strict=True),
    Aim("the most memory under any load", _most("peak_mib"), 256, " MiB", is_most=True, is_strict=True),
    Aim("p99 of a reader beside a writer, to its p99 alone", _at("fairness", "times_alone_p99"), 3.0, is_most=True),
    Aim(
        "longest NOP round trip beside a cold file, in any round",
        _worst("cold-file", "nop_longest_ms"),
        100,
        " ms",
        is_most=True,
        is_strict=True,
    ),
    *(
        Aim(f"{size} random read, depth 32, on {target}: csv-initiator to iscsi-perf", _at(row, figure, target), bound)
        for size, row, figure, bound in INITIATORS
        for target in (OURS, THEIRS)
    ),
    *(
        Aim(
            f"copy of 2 GiB, half holes, {direction} of {target}: csv-initiator to qemu-img convert",
            _at(row, "to_qemu", target),
            1.0,
            is_strict=True,
        )
        for direction, row in COPIES
        for target in (OURS, THEIRS)
    ),
)


def table(samples: Samples) -> str:
    """Every aim, what was measured, and whether it is met, as Markdown."""
    lines = ["| aim | required | measured | |", "|---|---:|---:|---|"]
    for aim in AIMS:
        value = aim.measured(samples)
        if value is None:
            lines.append(f"| {aim.text} | {aim.required} | not measured | |")
        else:
            verdict = "met" if aim.is_met(value) else "**not met**"
            lines.append(f"| {aim.text} | {aim.required} | {value:.2f}{aim.unit} | {verdict} |")
    return "\n".join(lines) + "\n"
