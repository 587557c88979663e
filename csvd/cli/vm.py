"""``csvd vm``: the guests of the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.migrate import migrate
from csvd.cli.options import SIZE, asks_daemon
from csvd.cli.output import plain, print_json, table, tell
from csvd.cli.progress import progress_line, report_lines
from csvd.cli.status import GUEST_HEADER, guest_row
from csvd.config.values import format_size

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The guests of the cluster.")
def vm() -> None:
    """The guests of the cluster: any node can be asked about any of them."""


vm.add_command(migrate)


@vm.command()
@click.argument("name")
@click.option("--memory", "memory_bytes", type=SIZE, required=True, metavar="SIZE", help="Its RAM: 256M, 4G.")
@click.option(
    "--pages-per-s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Pages that the demonstration guest rewrites each second.",
)
@click.option("--backing", type=click.Choice(["file", "shm"]), help="Where its RAM is kept.  [default: file]")
@click.option("--node", metavar="NODE", help="The node to make it on.  [default: the one that is asked]")
@asks_daemon
def create(
    client: ControlClient,
    as_json: bool,
    name: str,
    memory_bytes: int,
    pages_per_s: float,
    backing: str | None,
    node: str | None,
) -> None:
    """Make a guest and start it.

    \b
    Examples:
      csvd vm create web --memory 256M --pages-per-s 2000
      csvd vm create web --memory 1G --node node2
    """
    spec: dict[str, Any] = {"memory_bytes": memory_bytes, "pages_per_s": pages_per_s}
    if backing is not None:
        spec["backing"] = backing
    guest = client.create_guest(name, spec, node=node)
    _tell(guest, as_json=as_json)


@vm.command("ls")
@asks_daemon
def list_guests(client: ControlClient, as_json: bool) -> None:
    """List the guests.

    \b
    Examples:
      csvd vm ls
    """
    guests = client.guests()
    if as_json:
        print_json({"guests": guests})
        return
    click.echo(table(GUEST_HEADER, [guest_row(one) for one in guests]))


@vm.command()
@click.argument("name")
@asks_daemon
def show(client: ControlClient, as_json: bool, name: str) -> None:
    """Show a guest, with what its owner knows of it and its latest migration.

    \b
    Examples:
      csvd vm show web
    """
    guest = client.guest(name)
    if as_json:
        print_json(guest)
    else:
        click.echo("\n".join(_guest_lines(guest)))


_SHOWN_FIRST: Final = ("name", "owner", "epoch", "state", "migration", "spec")


def _guest_lines(guest: dict[str, Any]) -> Iterator[str]:
    yield f"guest {guest['name']}  {guest['state']}  on {guest['owner']}, epoch {guest['epoch']}"
    facts = {**guest["spec"], **{key: value for key, value in guest.items() if key not in _SHOWN_FIRST}}
    for key, value in facts.items():
        if value not in (None, ""):
            yield f"  {plain(key)}: {_value(key, value)}"
    migration = guest["migration"]
    if migration is None:
        return
    yield ""
    if migration["report"] is None:
        yield progress_line(migration)
    else:
        yield "latest migration:"
        yield from report_lines(migration["report"])


def _value(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({format_size(value)})"
    return plain(str(value))


@vm.command()
@click.argument("name")
@asks_daemon
def start(client: ControlClient, as_json: bool, name: str) -> None:
    """Run a stopped guest, from its image.

    \b
    Examples:
      csvd vm start web
    """
    _tell(client.start_guest(name), as_json=as_json)


@vm.command()
@click.argument("name")
@asks_daemon
def stop(client: ControlClient, as_json: bool, name: str) -> None:
    """End a guest's process; its image stays, and it can be started again.

    \b
    Examples:
      csvd vm stop web
    """
    _tell(client.stop_guest(name), as_json=as_json)


@vm.command()
@click.argument("name")
@asks_daemon
def pause(client: ControlClient, as_json: bool, name: str) -> None:
    """Have a guest execute nothing until it is resumed.

    \b
    Examples:
      csvd vm pause web
    """
    _tell(client.pause_guest(name), as_json=as_json)


@vm.command()
@click.argument("name")
@asks_daemon
def resume(client: ControlClient, as_json: bool, name: str) -> None:
    """Let a paused guest execute again.

    \b
    Examples:
      csvd vm resume web
    """
    _tell(client.resume_guest(name), as_json=as_json)


def _tell(guest: dict[str, Any], *, as_json: bool) -> None:
    tell(guest, f"guest {guest['name']} is {guest['state']} on {guest['owner']}", as_json=as_json)


@vm.command()
@click.argument("name")
@asks_daemon
def rm(client: ControlClient, as_json: bool, name: str) -> None:
    """Remove a stopped guest and delete its image.

    \b
    Examples:
      csvd vm rm web
    """
    gone = client.remove_guest(name)
    tell(gone, f"guest {gone['name']} is removed", as_json=as_json)


@vm.command()
@click.argument("name")
@asks_daemon
@click.pass_context
def verify(context: click.Context, client: ControlClient, as_json: bool, name: str) -> None:
    """Have a guest check every page of its memory; exit 1 when one is not as it was written last.

    \b
    Examples:
      csvd vm verify web
    """
    found = client.verify_guest(name)
    if as_json:
        print_json(found)
    else:
        verdict = "intact" if found["is_intact"] else "DAMAGED"
        counts = f"{found['pages_checked']} pages checked, {found['pages_bad']} bad"
        losses = f"{found['missing_rewrites']} rewrites missing, {found['stray_pages']} stray pages"
        click.echo(f"guest {name} is {verdict}: {counts}, {losses}; count {found['counter']}")
    context.exit(0 if found["is_intact"] else 1)


@vm.command()
@click.argument("name")
@asks_daemon
def cancel(client: ControlClient, as_json: bool, name: str) -> None:
    """Call a guest's migration off: it goes on where it is.

    \b
    Examples:
      csvd vm cancel web
    """
    progress = client.cancel_migration(name)
    tell(progress, f"the migration of guest {name} to {progress['destination']} is being called off", as_json=as_json)
