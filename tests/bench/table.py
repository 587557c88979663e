"""From samples to the tables of docs/benchmarks.md, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.bench.aims import DIGESTS, RATE, digest_cost, to_fdatasync
from tests.bench.limits import CSVD_NULL, IN_C, IN_PYTHON, NULL
from tests.bench.loads import KIB
from tests.bench.rows import OURS, THEIRS, LoadRow, load_rows
from tests.bench.samples import CPU_PER_MILLION, MILLION, Samples, Spread

# From this block size on a reader thinks in bytes a second, below it in requests a second.
THROUGHPUT_FROM_BYTES: Final = 64 * KIB
NOTHING: Final = "–"
OF_C: Final = (0, 1, 2, 4)
"""The columns of the limits that need a compiler."""


def rates(samples: Samples) -> str:
    """The claim: rates and their ratio."""
    lines = _head("load", OURS, THEIRS, f"ratio {OURS}/{THEIRS}")
    for each in _measured(samples):
        cells = [_rate(samples.spread(each.key, name, RATE), each.load.block_bytes) for name in (OURS, THEIRS)]
        lines.append(_line(each.title, *cells, _ratio(samples.ratio((each.key, OURS, RATE), (each.key, THEIRS, RATE)))))
    return _text(lines)


def costs(samples: Samples) -> str:
    """The cost: CPU seconds of the target a million requests."""
    lines = _head("CPU seconds of the target a million requests", OURS, THEIRS, "ratio")
    for each in _measured(samples):
        cells = [_number(samples.spread(each.key, name, CPU_PER_MILLION), ",.1f") for name in (OURS, THEIRS)]
        ratio = samples.ratio((each.key, OURS, CPU_PER_MILLION), (each.key, THEIRS, CPU_PER_MILLION))
        lines.append(_line(each.title, *cells, _ratio(ratio)))
    return _text(lines)


def limits(samples: Samples, *, has_compiler: bool) -> str:
    """The absolute limits beside each row: the null target, csvd without a disk, and the file without a target."""
    lines = _head("load", NULL, f"{OURS} / {NULL}", f"{THEIRS} / {NULL}", CSVD_NULL, IN_C, IN_PYTHON)
    for each in _measured(samples):
        size, key, alone = each.load.block_bytes, each.key, each.alone
        cells = [
            _middle_rate(samples.spread(key, NULL, RATE), size),
            _ratio(samples.ratio((key, OURS, RATE), (key, NULL, RATE))),
            _ratio(samples.ratio((key, THEIRS, RATE), (key, NULL, RATE))),
            _middle_rate(samples.spread(key, CSVD_NULL, RATE), size),
            _middle_rate(samples.spread(alone, IN_C, RATE), size),
            _middle_rate(samples.spread(alone, IN_PYTHON, RATE), size),
        ]
        if not has_compiler:
            cells = ["no C compiler" if column in OF_C else cell for column, cell in enumerate(cells)]
        lines.append(_line(each.title, *cells))
    return _text(lines)


def digests(samples: Samples) -> str:
    """What data digests cost, in percent of the rate without them."""
    lines = _head("data digests at 256 KiB, depth 32: cost", OURS, THEIRS)
    for word, plain, with_digests in DIGESTS:
        found = [digest_cost(plain, with_digests, name)(samples) for name in (OURS, THEIRS)]
        lines.append(_line(word, *(NOTHING if cost is None else f"{cost:.1f} %" for cost in found)))
    return _text(lines)


def durable_writes(samples: Samples) -> str:
    """FUA writes beside one pwrite and fdatasync after another."""
    lines = _head("durable writes of 4 KiB", OURS, THEIRS, "one fdatasync after another")
    fua = [_number(samples.spread("fua-write-4k-d32", name, RATE), ",.0f") for name in (OURS, THEIRS)]
    lines.append(_line("a second", *fua, _number(samples.spread("file-durable-4k", IN_PYTHON, RATE), ",.0f")))
    times = [to_fdatasync(name)(samples) for name in (OURS, THEIRS)]
    lines.append(_line("times fdatasync", *(NOTHING if ratio is None else f"**{ratio:.2f}**" for ratio in times), "1"))
    return _text(lines)


def fairness(samples: Samples) -> str:
    """The latency of a depth-1 reader alone and beside a depth-32 writer."""
    lines = _head("a 4 KiB reader, depth 1, and a 256 KiB writer, depth 32", OURS, THEIRS, NULL)
    return _scene(
        samples,
        lines,
        "fairness",
        (OURS, THEIRS, NULL),
        ("reader's p50 alone, µs", "alone_p50_us", ",.0f", 1),
        ("reader's p99 alone, µs", "alone_p99_us", ",.0f", 1),
        ("reader's p50 beside the writer, µs", "beside_p50_us", ",.0f", 1),
        ("reader's p99 beside the writer, µs", "beside_p99_us", ",.0f", 1),
        ("p99 beside to p99 alone", "times_alone_p99", ".2f", 1),
        ("reader's rate beside the writer, IOPS", "beside_requests_per_s", ",.0f", 1),
        ("writer's rate, MB/s", "writer_requests_per_s", ",.0f", 256 * KIB / MILLION),
    )


def cold_file(samples: Samples) -> str:
    """A cold file beside a cached one and NOP-Outs."""
    lines = _head("a cold file read at depth 32", OURS, THEIRS)
    return _scene(
        samples,
        lines,
        "cold-file",
        (OURS, THEIRS),
        ("longest NOP round trip, ms", "nop_longest_ms", ",.1f", 1),
        ("NOP round trip, p99, ms", "nop_p99_ms", ",.2f", 1),
        ("p50 of a cached reader, depth 1, µs", "cached_p50_us", ",.0f", 1),
        ("p99 of a cached reader, depth 1, µs", "cached_p99_us", ",.0f", 1),
        ("cached reader's rate, IOPS", "cached_requests_per_s", ",.0f", 1),
        ("cold reader's rate, IOPS", "cold_requests_per_s", ",.0f", 1),
        ("read from the drive, of what it was sent", "from_drive_share", ".2f", 1),
    )


def initiators(samples: Samples) -> str:
    """Random reads by csv-initiator, iscsi-perf and qemu-img on each target."""
    lines = _head("random reads, depth 32", OURS, THEIRS)
    for size, key in (("4 KiB", "initiators-4k"), ("256 KiB", "initiators-256k")):
        _scene(
            samples,
            lines,
            key,
            (OURS, THEIRS),
            (f"{size}: csv-initiator, a second", "ours_per_s", ",.0f", 1),
            (f"{size}: iscsi-perf, a second", "iscsi_perf_per_s", ",.0f", 1),
            (f"{size}: qemu-img bench, a second", "qemu_img_per_s", ",.0f", 1),
            (f"{size}: **csv-initiator / iscsi-perf**", "to_iscsi_perf", ".2f", 1),
            (f"{size}: **csv-initiator / qemu-img**", "to_qemu_img", ".2f", 1),
            (f"{size}: CPU of a read by csv-initiator, µs", "ours_cpu_us", ",.1f", 1),
            (f"{size}: by iscsi-perf, µs", "iscsi_perf_cpu_us", ",.1f", 1),
            (f"{size}: by qemu-img, µs", "qemu_img_cpu_us", ",.1f", 1),
        )
    return _text(lines)


def copies(samples: Samples) -> str:
    """An image of 2 GiB, half holes, copied by csv-initiator and by qemu-img."""
    lines = _head("copy of 2 GiB, half holes", OURS, THEIRS)
    for direction, key in (("to the LUN", "copy-to-lun"), ("from the LUN", "copy-from-lun")):
        _scene(
            samples,
            lines,
            key,
            (OURS, THEIRS),
            (f"{direction}: csv-initiator copy, s", "ours_s", ",.2f", 1),
            (f"{direction}: qemu-img convert -W -m 16 -t none, s", "qemu_s", ",.2f", 1),
            (f"{direction}: qemu-img convert, not durable, s", "qemu_default_s", ",.2f", 1),
            (f"{direction}: **times as fast as -W -m 16 -t none**", "to_qemu", ".2f", 1),
        )
    return _text(lines)


def memory(samples: Samples) -> str:
    """Memory of idle sessions, and the most of all loads."""
    lines = _head("memory, MiB", OURS, THEIRS)
    text = _scene(
        samples,
        lines,
        "idle-sessions",
        (OURS, THEIRS),
        ("resident just after the start", "before_mib", ",.1f", 1),
        ("64 idle sessions add", "added_mib", ",.1f", 1),
    )
    most = [samples.most(name, "peak_mib") for name in (OURS, THEIRS)]
    cells = (NOTHING if value is None else f"{value:,.1f}" for value in most)
    return text + _line("the most that was resident, over all loads", *cells) + "\n"


def _scene(
    samples: Samples,
    lines: list[str],
    key: str,
    targets: Iterable[str],
    *figures: tuple[str, str, str, float],
) -> str:
    for title, figure, form, factor in figures:
        spreads = [samples.spread(key, name, figure) for name in targets]
        lines.append(_line(title, *(_number(spread, form, factor) for spread in spreads)))
    return _text(lines)


def _measured(samples: Samples) -> list[LoadRow]:
    return [each for each in load_rows() if samples.has(each.key, OURS) and samples.has(each.key, THEIRS)]


def _head(first: str, *others: str) -> list[str]:
    return [_line(first, *others), "|---|" + "---:|" * len(others)]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _rate(spread: Spread | None, block_bytes: int) -> str:
    if block_bytes < THROUGHPUT_FROM_BYTES:
        return _number(spread, ",.0f", unit=" IOPS")
    return _number(spread, ",.0f", block_bytes / MILLION, unit=" MB/s")


def _middle_rate(spread: Spread | None, block_bytes: int) -> str:
    if spread is None:
        return NOTHING
    if block_bytes < THROUGHPUT_FROM_BYTES:
        return f"{spread.median:,.0f} IOPS"
    return f"{spread.median * block_bytes / MILLION:,.0f} MB/s"


def _ratio(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"**{spread.median:.2f}** ({spread.least:.2f}–{spread.greatest:.2f})"


def _number(spread: Spread | None, form: str, factor: float = 1, unit: str = "") -> str:
    if spread is None:
        return NOTHING
    middle, least, greatest = (value * factor for value in (spread.median, spread.least, spread.greatest))
    return f"{middle:{form}}{unit} ({least:{form}}–{greatest:{form}})"
