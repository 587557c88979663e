"""``csvd init``: make a cluster."""

from __future__ import annotations

import time

import click

from csvd.cli.founding_options import FoundingChoice, chosen_node, founding_options
from csvd.cli.options import json_option
from csvd.cli.output import print_json


@click.command(short_help="Make a cluster, with this node in it.")
@click.option("--cluster", required=True, metavar="NAME", help="The cluster's name.")
@founding_options
@json_option
def init(cluster: str, choice: FoundingChoice, as_json: bool) -> None:
    """Make a cluster, whose first node this is, while its daemon does not run.

    Makes the cluster's certificate authority and this node's key and certificate, in files that nobody else may read.
    What the node had in its register stays. Other nodes join by a token of csvd token create.

    \b
    Examples:
      csvd init --cluster east --config /etc/csvd/csvd.toml
      csvd init --cluster east --state-directory /var/lib/csvd --node node1 --listen 10.0.0.1:7001
      csvd init --cluster east --config csvd.toml --listen 0.0.0.0:7001 --advertise node1.example:7001
    """
    from csvd.cluster.founding import found_cluster
    from csvd.daemon import lock_state_directory

    chosen = chosen_node(choice)
    with lock_state_directory(chosen.state_directory):
        identity = found_cluster(chosen.founder, cluster, now_s=time.time())
    if as_json:
        authority = identity.authority.fingerprint
        print_json(
            {"cluster": cluster, "node": identity.node, "address": chosen.founder.address, "authority": authority}
        )
        return
    click.echo(
        f"cluster {cluster} is made; this node is {identity.node}, and others find it at {chosen.founder.address}"
    )
    click.echo(chosen.next_steps())
    click.echo("then, for each node that is to join: csvd token create")
