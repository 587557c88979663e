"""``csv-initiator verify``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from initiator.cli import options, runtime
from initiator.cli.places import Place, Places, place, places_options
from initiator.cli.progress import Progress
from initiator.errors import InitiatorError
from initiator.images.comparison import Comparison, Difference
from initiator.images.end import SourceEnd
from initiator.images.job import HOLE_ALIGN_BYTES
from initiator.images.manifest import ALGORITHMS, RANGE_BYTES, Digesting, Manifest, parse_manifest
from initiator.images.plan import CopyPlan, Side

CHUNK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 256 << 20


@click.command()
@click.argument("first", type=place, metavar="A")
@click.argument("second", type=place, metavar="[B]", required=False)
@click.option("--source-offset", "first_offset", type=options.size, default="0", help="Where to begin in A, in bytes.")
@click.option("--offset", "second_offset", type=options.size, default="0", help="Where to begin in B, in bytes.")
@click.option("--length", type=options.size, help="How much.  [default: up to the end of A]")
@click.option("--digest", type=click.Choice(ALGORITHMS), help="Without B: print digests of the ranges of A.")
@click.option(
    "--range",
    "range_bytes",
    type=options.size,
    default=str(RANGE_BYTES >> 20) + "M",
    show_default=True,
    help="How long a range of --digest is; 0: one digest of all.",
)
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Without B: compare A with the digests in FILE, that --digest --json has printed.",
)
@click.option(
    "--queue-depth",
    "lanes",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Reads of each side under way at once.",
)
@places_options
@options.json_option
def verify(
    first: Place,
    second: Place | None,
    first_offset: int,
    second_offset: int,
    length: int | None,
    digest: str | None,
    range_bytes: int,
    manifest: Path | None,
    lanes: int,
    places: Places,
    as_json: bool,
) -> None:
    """Compare A with B, each a file, a block device or the URL of a LUN. Exit 0: they are equal; 1: they differ.

    B may be longer than A: what follows is not looked at. What both sides are known to hold zeros in is not read. The
    first byte that differs is told, with what both sides have there.

    Where no one host reaches both, compare digests: print those of one with --digest --json, and check the other
    against them with --manifest.

    \b
    Examples:
      csv-initiator verify system.img iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator verify system.img --digest sha256 --json > system.manifest
      csv-initiator verify iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --manifest system.manifest
      csv-initiator verify system.img --digest sha256 --range 0
    """
    if (second is not None) + (digest is not None) + (manifest is not None) != 1:
        raise click.UsageError("give B, or --digest, or --manifest FILE")
    if "-" in (first, second):
        raise click.UsageError("a pipe can not be compared: give a file, a device or a URL")
    places.settle(first, first if second is None else second, depth=2 * lanes)
    if second is not None:
        _compare(places, first, second, (first_offset, second_offset), length, lanes, as_json)
    elif digest is not None:
        found = _digest(places, first, first_offset, length, digest, range_bytes, lanes)
        click.echo(found.text() if as_json else "\n".join(_lines(found)))
    else:
        assert manifest is not None
        _check(places, first, first_offset, length, manifest, lanes, as_json)


def _compare(
    places: Places,
    first: Place,
    second: Place,
    offsets: tuple[int, int],
    length: int | None,
    lanes: int,
    as_json: bool,
) -> None:
    async def work(reactor: Any) -> tuple[int, Difference | None]:
        one = await places.open_source(reactor, first)
        try:
            other = await places.open_source(reactor, second, which="second")
            try:
                wanted = _length(one, offsets[0], length)
                _length(other, offsets[1], wanted)
                return wanted, await _compared(reactor, one, other, offsets, wanted, lanes)
            finally:
                await other.close()
        finally:
            await one.close()

    compared, found = runtime.run(work)
    if as_json:
        options.echo_json(
            {
                "first": str(first),
                "second": str(second),
                "length_bytes": compared,
                "equal": found is None,
                "difference": None
                if found is None
                else {"offset_bytes": found.offset, "first": found.first.hex(), "second": found.second.hex()},
            }
        )
    if found is not None:
        where = f"they differ from byte {offsets[0] + found.offset} of {first} on"
        if offsets[0] != offsets[1]:
            where += f", byte {offsets[1] + found.offset} of {second}"
        raise runtime.Failed(f"{where}: {found.first.hex()} and {found.second.hex()}")
    if not as_json:
        click.echo(f"equal: {options.size_text(compared)}", err=True)


async def _compared(
    reactor: Any, one: SourceEnd, other: SourceEnd, offsets: tuple[int, int], length: int, lanes: int
) -> Difference | None:
    align = math.lcm(HOLE_ALIGN_BYTES, one.align_bytes, other.align_bytes)
    chunk = max(align, CHUNK_BYTES // align * align)
    plan = CopyPlan(length, chunk=chunk, align=align, zero_chunk=chunk, maps=frozenset(Side))
    bar = Progress("comparing", reactor.seconds)
    try:
        return await Comparison(
            plan,
            one,
            other,
            first_offset=offsets[0],
            second_offset=offsets[1],
            chunk=chunk,
            lanes=lanes,
            progressed=lambda done: bar.update(done, length),
        ).run()
    finally:
        bar.end()


def _digest(
    places: Places, where: Place, offset: int, length: int | None, algorithm: str, range_bytes: int, lanes: int
) -> Manifest:
    async def work(reactor: Any) -> Manifest:
        end = await places.open_source(reactor, where)
        bar = Progress("reading", reactor.seconds)
        try:
            wanted = _length(end, offset, length)
            if range_bytes and (range_bytes % end.align_bytes):
                raise InitiatorError("a range has whole blocks", where=end.name, why=f"of {end.align_bytes} bytes")
            return await Digesting(
                reactor,
                end,
                algorithm,
                offset=offset,
                length=wanted,
                range_bytes=range_bytes or max(1, wanted),
                chunk=max(end.align_bytes, CHUNK_BYTES // end.align_bytes * end.align_bytes),
                lanes=lanes,
                progressed=lambda done: bar.update(done, wanted),
            ).run()
        finally:
            bar.end()
            await end.close()

    return runtime.run(work)


def _check(
    places: Places, where: Place, offset: int, length: int | None, file: Path, lanes: int, as_json: bool
) -> None:
    try:
        wanted = parse_manifest(_read(file), str(file))
    except InitiatorError as error:
        raise runtime.Failed(str(error)) from error
    if length is not None and length != wanted.length:
        raise runtime.Failed(f"{file}: the digests are of {wanted.length} bytes")
    found = _digest(places, where, offset, wanted.length, wanted.algorithm, wanted.range_bytes, lanes)
    number = wanted.difference(found)
    begin = None if number is None else number * wanted.range_bytes
    if as_json:
        options.echo_json(
            {
                "first": str(where),
                "manifest": str(file),
                "length_bytes": wanted.length,
                "equal": number is None,
                "range": None if begin is None else {"offset_bytes": begin, "length_bytes": wanted.range_bytes},
            }
        )
    if begin is not None:
        end = min(begin + wanted.range_bytes, wanted.length)
        raise runtime.Failed(f"{where} differs from {file} in the bytes from {offset + begin} to {offset + end - 1}")
    if not as_json:
        click.echo(f"equal: {options.size_text(wanted.length)}", err=True)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_MANIFEST_BYTES).decode()
    except OSError as error:
        raise runtime.Failed(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise runtime.Failed(f"{file}: this is no manifest of an image") from error


def _length(end: SourceEnd, offset: int, length: int | None) -> int:
    """Settle how much of an end is looked at."""
    if offset % end.align_bytes:
        raise InitiatorError("the offset is not of whole blocks", where=end.name, why=f"of {end.align_bytes} bytes")
    size = end.size_bytes or 0
    wanted = size - offset if length is None else length
    if wanted < 0 or offset + wanted > size:
        raise InitiatorError("it is too short for that", where=end.name, why=f"it has {size} bytes")
    return wanted


def _lines(manifest: Manifest) -> list[str]:
    ends = (min(manifest.length, (n + 1) * manifest.range_bytes) for n in range(len(manifest.digests)))
    return [
        f"{digest}  {n * manifest.range_bytes}-{end - 1}"
        for n, (digest, end) in enumerate(zip(manifest.digests, ends, strict=True))
    ]
