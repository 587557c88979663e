"""``csv-initiator copy``."""

from __future__ import annotations

import sys
from typing import Any

import click
from twisted.internet.defer import CancelledError

from initiator.cli import options, runtime
from initiator.cli.places import Place, Places, place, places_options
from initiator.cli.progress import Progress
from initiator.images.end import TargetEnd
from initiator.images.job import Copied, CopySettings
from initiator.images.job import copy as copy_image
from initiator.images.state import read_state


@click.command()
@click.argument("source", type=place, metavar="SOURCE")
@click.argument("target", type=place, metavar="TARGET")
@click.option(
    "--source-offset", "source_offset", type=options.size, default="0", help="Where to begin in SOURCE, in bytes."
)
@click.option("--offset", "target_offset", type=options.size, default="0", help="Where to begin in TARGET, in bytes.")
@click.option("--length", type=options.size, help="How much to copy.  [default: up to the end of SOURCE]")
@click.option("--no-sparse", is_flag=True, help="Read and write everything, zeros too.")
@click.option("--target-is-zero", is_flag=True, help="Take it that TARGET reads as zeros: write none.")
@click.option(
    "--resume",
    "state_path",
    type=click.Path(dir_okay=False),
    metavar="STATE",
    help="Keep in this file how far the copy is; where there is one, go on from it.",
)
@click.option(
    "--queue-depth",
    "lanes",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Reads and writes under way at once.",
)
@click.option("--chunk", type=options.size, default="1M", show_default=True, help="What one of them moves at most.")
@places_options
@options.json_option
def copy(
    source: Place,
    target: Place,
    source_offset: int,
    target_offset: int,
    length: int | None,
    no_sparse: bool,
    target_is_zero: bool,
    state_path: str | None,
    lanes: int,
    chunk: int,
    places: Places,
    as_json: bool,
) -> None:
    """Copy an image from SOURCE to TARGET: each a file, a block device, the URL of a LUN, or - for a pipe.

    A file that is there is written over, and has the size of the source then; with --offset it keeps what else it
    holds. When this ends with 0, all of the copy is on stable storage.

    Holes and zeros are neither read nor written where that can be told: holes of files; blocks of LUNs that GET LBA
    STATUS says are unmapped, where those read as zeros; and zeros in data. Files get holes, LUNs WRITE SAME with UNMAP.

    With --resume STATE a copy that was interrupted, or whose machine went down, is gone on with by the same command.
    The state never says more than is on stable storage; a source that has changed since (another size, identity or time
    of change) is refused. Of a LUN only its identity and size can be compared.

    \b
    Examples:
      csv-initiator copy system.img iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --resume system.copy
      csv-initiator copy iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 system.img
      csv-initiator copy iscsi://192.0.2.7/iqn.2026-11.org.csvd:a/0 iscsi://192.0.2.8/iqn.2026-11.org.csvd:b/0
      zstdcat system.img.zst | csv-initiator copy - iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
    """
    if state_path and "-" in (source, target):
        raise click.UsageError("a copy from or to a pipe can not be gone on with: no --resume")
    if target == "-" and (as_json or sys.stdout.isatty()):
        raise click.UsageError("the data goes to stdout: give a file, or a pipe and no --json")
    if not chunk:
        raise click.UsageError("--chunk is not 0")
    places.settle(source, target, depth=lanes)
    settings = CopySettings(
        source_offset=source_offset,
        target_offset=target_offset,
        length=length,
        chunk=chunk,
        lanes=lanes,
        sparse=not no_sparse,
        target_is_zero=target_is_zero,
        state_path=state_path or "",
    )

    async def work(reactor: Any) -> Copied:
        bar = Progress("copying", reactor.seconds)
        opened = await places.open_source(reactor, source)
        try:

            async def open_target(size: int, keep: bool) -> TargetEnd:
                return await places.open_target(reactor, target, size=size, keep=keep, avoid=opened.identity)

            return await copy_image(reactor, opened, open_target, settings, bar.update)
        except CancelledError:
            bar.end()
            if settings.state_path:
                _tell_kept(settings.state_path)
            raise
        finally:
            bar.end()
            await opened.close()

    _show(runtime.run(work), source, target, as_json)


def _tell_kept(path: str) -> None:
    kept = read_state(path)
    if kept is not None:
        amount = f"{options.size_text(kept.durable)} of {options.size_text(kept.length)}"
        click.echo(f"{amount} are copied and kept in {path}: the same command goes on", err=True)


def _show(copied: Copied, source: Place, target: Place, as_json: bool) -> None:
    rate = (copied.length - copied.begun_at) / copied.time_s if copied.time_s else 0.0
    if as_json:
        options.echo_json(
            {
                "source": str(source),
                "target": str(target),
                "length_bytes": copied.length,
                "begun_at_bytes": copied.begun_at,
                "moved_bytes": copied.moved,
                "zeroed_bytes": copied.zeroed,
                "skipped_bytes": copied.skipped,
                "time_s": round(copied.time_s, 6),
                "bytes_per_s": round(rate),
            }
        )
        return
    moved = f"{options.size_text(copied.moved)} moved"
    text = f"{options.size_text(copied.length)} in {copied.time_s:.2f} s, {options.size_text(rate)}/s: {moved}"
    click.echo(text, err=True)
