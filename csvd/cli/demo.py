"""``csvd demo``: the whole of csvd on one machine, in a minute."""

from __future__ import annotations

import json
import sys

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave the three nodes running, and print how to talk to them.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as one JSON object.")
def demo(keep: bool, as_json: bool) -> None:
    """Show csvd: three nodes, one shared disk, an initiator, a live migration, a killed coordinator.

    Everything runs on loopback, needs no root, and is removed at the end. Exits 0 when all held, 1 when not.

    \b
    Examples:
      csvd demo
      csvd demo --keep
    """
    from csvd.demo.walk import run

    held, facts = run(keep=keep, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"held": held, **facts}, indent=2))
    sys.exit(0 if held else 1)
