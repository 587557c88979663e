"""``csv-initiator lba-status``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.transfer import progress
from initiator.disk import Disk
from initiator.errors import InitiatorError
from initiator.scsi.provisioning import LbaStatus
from initiator.url import IscsiUrl


@click.command("lba-status")
@click.argument("url", type=options.url, metavar="URL")
@click.option(
    "--offset", "offset_bytes", type=options.size, default="0", help="Where to begin, in bytes: whole blocks."
)
@click.option("--length", "length_bytes", type=options.size, help="How much, in bytes.  [default: up to the end]")
@click.option("--summary", is_flag=True, help="Only the totals.")
@login_options
@options.json_option
def lba_status(
    url: IscsiUrl, offset_bytes: int, length_bytes: int | None, summary: bool, login: Login, as_json: bool
) -> None:
    """Show which parts of a disk are mapped (GET LBA STATUS), with the totals: what is deallocated holds no data.

    \b
    Examples:
      csv-initiator lba-status iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator lba-status iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --offset 1G --length 1G
      csv-initiator lba-status iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --summary --json
    """
    how = login.of(url.user, recover=False)

    async def work(reactor: Any) -> dict[str, Any]:
        async with client.connect(url, reactor=reactor, **how) as disk:
            first, blocks = _range(disk, offset_bytes, length_bytes)
            listed: list[dict[str, Any]] = []
            totals: dict[str, int] = {}
            quiet = summary or as_json
            with ExitStack() as stack:
                bar = stack.enter_context(progress(blocks, "asking")) if quiet else None
                async for run in _runs(disk, first, first + blocks):
                    row = _as_json(disk, run)
                    name = row["status"]
                    if not quiet and not totals:
                        click.echo(f"{'OFFSET':>20}  {'LENGTH':>20}  STATUS")
                    totals[name] = totals.get(name, 0) + row["length_bytes"]
                    if bar is not None:
                        bar.update(run.blocks)
                    else:
                        click.echo(f"{row['offset_bytes']:>20}  {row['length_bytes']:>20}  {name}")
                    if as_json and not summary:
                        listed.append(row)
            return {
                "url": str(url),
                "offset_bytes": first * disk.block_bytes,
                "length_bytes": blocks * disk.block_bytes,
                "block_bytes": disk.block_bytes,
                "totals_bytes": totals,
            } | ({} if summary else {"extents": listed})

    found = runtime.run(work)
    if as_json:
        options.echo_json(found)
        return
    for name, length in found["totals_bytes"].items():
        share = 100 * length / found["length_bytes"]
        click.echo(f"{name}: {length} bytes ({options.size_text(length)}, {share:.1f} %)")


def _range(disk: Disk, offset_bytes: int, length_bytes: int | None) -> tuple[int, int]:
    block = disk.block_bytes
    length = disk.size_bytes - offset_bytes if length_bytes is None else length_bytes
    if offset_bytes % block or length % block:
        raise InitiatorError("offset and length are of whole blocks", why=f"{block} bytes each")
    if length < 0 or offset_bytes + length > disk.size_bytes:
        raise InitiatorError("the disk ends before that", why=f"it has {disk.size_bytes} bytes")
    return offset_bytes // block, length // block


async def _runs(disk: Disk, at: int, end: int) -> AsyncIterator[LbaStatus]:
    """Give the runs of a range, of any number, while no more than some thousands are held."""
    held: LbaStatus | None = None
    while at < end:
        for run in await disk.get_lba_status(at, end - at, most=4096):
            if held is not None and held.status is run.status:
                held = LbaStatus(held.lba, held.blocks + run.blocks, run.status)
            else:
                if held is not None:
                    yield held
                held = run
            at = run.end
    if held is not None:
        yield held


def _as_json(disk: Disk, run: LbaStatus) -> dict[str, Any]:
    return {
        "offset_bytes": run.lba * disk.block_bytes,
        "length_bytes": run.blocks * disk.block_bytes,
        "status": run.status.name.lower().replace("_", " "),
    }
