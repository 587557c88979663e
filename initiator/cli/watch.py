"""``csv-initiator watch``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from twisted.internet.defer import CancelledError

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.path_options import PathChoice, several_paths
from initiator.disk import Disk
from initiator.multipath_options import PathStatus
from initiator.url import IscsiUrl
from initiator.watching import Event, Watcher


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.05, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two polls: one TEST UNIT READY each.",
)
@login_options
@several_paths
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
def watch(
    url: IscsiUrl,
    interval_s: float,
    paths: PathChoice,
    login: Login,
    as_json: bool,
) -> None:
    """Show what happens on a LUN until Ctrl-C, a line for each event: unit attentions, another capacity, access states,
    registrations and reservations, a session that is lost and one that is logged in again, a path that comes and goes.

    \b
    Examples:
      csv-initiator watch iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator watch iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --multipath
      csv-initiator watch iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --interval 0.2 --json | jq .event
    """
    how = login.of(url.user)

    async def work(reactor: Any) -> None:
        async def connect() -> Disk:
            return await client.connect(
                paths.to(url),
                multipath=paths.how(),
                on_path=path_changed,
                reactor=reactor,
                **how,
            )

        def path_changed(path: PathStatus) -> None:
            facts = {"path": path.url, "state": path.words, "why": path.why}
            tell(Event("path", f"path {path}", facts))

        def tell(event: Event) -> None:
            now = datetime.now(UTC)
            if as_json:
                facts = {"time": now.isoformat(), "event": event.kind, "text": event.text} | event.facts
                click.echo(json.dumps(facts))
            else:
                click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03} {runtime.printable(event.text)}")

        try:
            await Watcher(reactor, connect, tell, interval_s=interval_s).run()
        except CancelledError:
            return  # Ctrl-C is how this ends

    runtime.run(work)
