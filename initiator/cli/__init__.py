"""``csv-initiator``: disks on iSCSI targets from the command line."""

from __future__ import annotations

import importlib
from typing import Final

import click

PROGRAM: Final = "csv-initiator"

COMMANDS: Final = (
    "attach",
    "bench",
    "copy",
    "discover",
    "info",
    "lba-status",
    "ls",
    "read",
    "reserve",
    "verify",
    "watch",
    "write",
)


class _Commands(click.Group):
    """The commands, each of a module of its own that is imported when it is asked for: a copy need not wait for what
    the others are made of."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def main() -> None:
    """Run the program: exit 0 when all went well, 1 with a line on stderr when not, 2 on wrong usage, 130 on Ctrl-C."""
    cli(prog_name=PROGRAM)
