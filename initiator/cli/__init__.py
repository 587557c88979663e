"""``csv-initiator``: disks on iSCSI targets from the command line."""

from __future__ import annotations

from typing import Final

import click

from initiator.cli.attach import attach
from initiator.cli.bench import bench
from initiator.cli.copy import copy
from initiator.cli.discover import discover
from initiator.cli.info import info
from initiator.cli.lba_status import lba_status
from initiator.cli.ls import ls
from initiator.cli.read import read
from initiator.cli.reserve import reserve
from initiator.cli.verify import verify
from initiator.cli.watch import watch
from initiator.cli.write import write

PROGRAM: Final = "csv-initiator"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="csvd", prog_name=PROGRAM)
def cli() -> None:
    """Discover iSCSI targets, and read, write, copy and measure their disks, without a kernel driver and without root.

    A URL is iscsi://[user[%secret]@]host[:port]/target-name[/lun], as libiscsi and QEMU have it. A secret on a command
    line can be seen by others: give it by --chap-secret-file.

    \b
    Examples:
      csv-initiator discover 192.0.2.7:3260
      csv-initiator ls 192.0.2.7
      csv-initiator info iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator read iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --length 64M -o head.img
      csv-initiator write iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 system.img
      csv-initiator copy system.img iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --resume system.copy
      csv-initiator bench iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --block-size 256K
    """


cli.add_command(attach)
cli.add_command(bench)
cli.add_command(copy)
cli.add_command(discover)
cli.add_command(info)
cli.add_command(lba_status)
cli.add_command(ls)
cli.add_command(read)
cli.add_command(reserve)
cli.add_command(verify)
cli.add_command(watch)
cli.add_command(write)


def main() -> None:
    """Run the program: exit 0 when all went well, 1 with a line on stderr when not, 2 on wrong usage, 130 on Ctrl-C."""
    cli(prog_name=PROGRAM)
