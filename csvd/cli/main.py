"""``csvd``: the group of all commands, and what becomes of an error."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import click

from csvd.cli.options import DEFAULT_SOCKET, SOCKET_VARIABLE
from csvd.errors import CsvdError

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
DEBUG_VARIABLE: Final = "CSVD_DEBUG"

# Where each command is. Its module is imported when it is used, or when the help lists it.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "csvd.cli.serve:serve",
    "run": "csvd.cli.run:run",
    "demo": "csvd.cli.demo:demo",
    "init": "csvd.cli.init:init",
    "join": "csvd.cli.join:join",
    "token": "csvd.cli.token:token",
    "node": "csvd.cli.node:node",
    "key": "csvd.cli.key:key",
    "status": "csvd.cli.status:status",
    "vm": "csvd.cli.vm:vm",
    "migrate": "csvd.cli.migrate:migrate",
    "disk": "csvd.cli.disk:disk",
    "coordinator": "csvd.cli.coordinator:coordinator",
    "fence": "csvd.cli.fence:fence",
    "target": "csvd.cli.target:target",
    "lun": "csvd.cli.lun:lun",
    "acl": "csvd.cli.acl:acl",
    "portal": "csvd.cli.portal:portal",
    "session": "csvd.cli.session:session",
    "stats": "csvd.cli.stats:stats",
    "event": "csvd.cli.event:event",
    "config": "csvd.cli.config:config",
    "completion": "csvd.cli.completion:completion",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is needed, and lists them in the order of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


def _print_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    from csvd.api.version import version

    click.echo(f"csvd {version()}")
    context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    envvar=SOCKET_VARIABLE,
    help=f"The control socket of the daemon to ask.  [env: {SOCKET_VARIABLE}; default: {DEFAULT_SOCKET}]",
)
def csvd(socket_path: str | None) -> None:
    """Shared disks for many hosts by iSCSI, and live migration of virtual machines between them.

    \b
    Examples:
      csvd demo                              three nodes on this machine, shown at work
      csvd serve disk.img --create 10G       one disk, one node, until Ctrl-C
      csvd run --config /etc/csvd/csvd.toml  a node of a cluster
      csvd status                            what a node sees of its cluster
      csvd lun add /srv/b.img --create 10G   another disk, while it runs
      csvd migrate web --to node2            move a running guest
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line: an error is one line on stderr and exit 1, wrong usage exit 2, Ctrl-C exit 130."""
    try:
        chosen = None if arguments is None else list(arguments)
        status = csvd.main(args=chosen, prog_name="csvd", standalone_mode=False)
        sys.stdout.flush()
    except CsvdError as error:
        _say(str(error))
        status = EXIT_FAILED
    except click.exceptions.Abort:
        status = EXIT_INTERRUPTED
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except BrokenPipeError:
        status = EXIT_FAILED
    except OSError as error:
        _say(f"can not write: {error.strerror or error}")
        status = EXIT_FAILED
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _say(f"a fault of csvd's own: {type(error).__name__}: {error} ({DEBUG_VARIABLE}=1 shows where)")
        status = EXIT_FAILED
    _forget_unwritten()
    sys.exit(status if isinstance(status, int) else 0)


def _say(line: str) -> None:
    from csvd.cli.output import plain

    sys.stderr.write(f"csvd: {plain(line)}\n")


def _forget_unwritten() -> None:
    """Have the interpreter's last flush of stdout not fail again, when its reader is gone or its disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
