"""``csv-initiator discover``."""

from __future__ import annotations

from typing import Any

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, discovery_options
from initiator.engine.discovery import DiscoveredTarget
from initiator.url import IscsiUrl


@click.command()
@click.argument("portal", type=options.portal_url, metavar="HOST[:PORT]")
@click.option("--target", "target_name", type=options.iscsi_name, metavar="NAME", help="Ask for this target only.")
@discovery_options
@options.json_option
def discover(
    portal: IscsiUrl,
    target_name: str | None,
    login: Login,
    as_json: bool,
) -> None:
    """List the targets at HOST[:PORT], and the portals of each (SendTargets). The port is 3260 unless given; a URL
    will do as well.

    \b
    Examples:
      csv-initiator discover 192.0.2.7
      csv-initiator discover [2001:db8::7]:3261 --json
      csv-initiator discover san.example --chap-user joe --chap-secret-file joe.secret
      csv-initiator discover iscsi://joe@san.example --chap-secret-file joe.secret --target iqn.2026-11.org.csvd:disk
    """
    how = login.of(portal.user)

    async def work(reactor: Any) -> list[DiscoveredTarget]:
        return await client.discover(
            portal,
            target_name=target_name or "",
            reactor=reactor,
            **how,
        )

    targets = runtime.run(work)
    if as_json:
        options.echo_json({"portal": str(portal.portal), "targets": [_as_json(target) for target in targets]})
        return
    for target in targets:
        click.echo(runtime.printable(target.name))
        for address in target.addresses:
            click.echo(f"  {address}")
    if not targets:
        click.echo("no targets", err=True)


def _as_json(target: DiscoveredTarget) -> dict[str, Any]:
    addresses = [
        {"host": a.portal.host, "port": a.portal.port, "portal_group_tag": a.portal_group_tag} for a in target.addresses
    ]
    return {"name": target.name, "addresses": addresses}
