"""``csvd join``: make this host a node of a cluster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from csvd.cli.founding_options import FoundingChoice, chosen_node, founding_options
from csvd.cli.options import json_option
from csvd.cli.output import tell
from csvd.errors import ConfigError

if TYPE_CHECKING:
    from csvd.cluster.identity.token import JoinToken

TOKEN_VARIABLE: Final = "CSVD_TOKEN_FILE"  # noqa: S105 - the name of a variable that names a file


@click.command(short_help="Make this host a node of a cluster.")
@click.argument("token_file", metavar="TOKEN-FILE", required=False)
@founding_options
@json_option
def join(token_file: str | None, choice: FoundingChoice, as_json: bool) -> None:
    """Join a cluster, while this node's daemon does not run, by a token that csvd token create made there.

    TOKEN-FILE is a file with the token that nobody else may read (mode 0600), or - for stdin, or
    ${CREDENTIALS_DIRECTORY}/NAME for a credential of systemd; without it the environment's CSVD_TOKEN_FILE names the
    file. The token itself is a secret, and stands on no command line.

    Any node of the cluster that the token names is asked. When that was cut short, the same command goes on with it.

    \b
    Examples:
      ssh node1 csvd token create | csvd join - --config /etc/csvd/csvd.toml
      csvd join token --state-directory /var/lib/csvd --node node2 --listen 10.0.0.2:7001
    """
    from csvd.cluster.founding import join_cluster
    from csvd.cluster.timeouts import Timeouts
    from csvd.daemon import lock_state_directory
    from csvd.runtime import run_to_end

    chosen, token = chosen_node(choice), read_token(token_file)
    with lock_state_directory(chosen.state_directory):
        identity = run_to_end(
            lambda reactor: join_cluster(
                chosen.founder, token, reactor=reactor, wall_s=time.time, timeouts=Timeouts(connect_s=5.0)
            )
        )
    tell(
        {"cluster": identity.cluster, "node": identity.node, "address": chosen.founder.address},
        f"this node is {identity.node} of cluster {identity.cluster}, which finds it at {chosen.founder.address}",
        as_json=as_json,
    )
    if not as_json:
        click.echo(chosen.next_steps())


def read_token(source: str | None) -> JoinToken:
    """Read a token from where a person said it is.

    Raises:
        click.UsageError: nobody said where, or it is the token itself.
        ConfigError: it can not be read, others may read it, or it is none.
    """
    from csvd.cluster.identity.token import MAXIMUM_TOKEN_BYTES, JoinToken, is_token_text
    from csvd.secret_file import read_secret, secret_path

    named = source or os.environ.get(TOKEN_VARIABLE, "")
    if not named:
        raise click.UsageError(f"give a file with the join token, or - for stdin, or set {TOKEN_VARIABLE}")
    if is_token_text(named):
        raise click.UsageError(
            "a join token is a secret, and everybody on this host can read command lines: revoke this one (csvd token "
            "revoke), and give the next in a file of mode 0600, or on stdin: csvd join - < FILE"
        )
    if named == "-":
        text = sys.stdin.buffer.read(MAXIMUM_TOKEN_BYTES + 1)
    else:
        text = read_secret(secret_path(Path(named)), limit_bytes=MAXIMUM_TOKEN_BYTES, kind="join token")
    try:
        return JoinToken.parse(text.decode("ascii", "replace"))
    except ConfigError as error:
        where = "stdin" if named == "-" else named
        raise ConfigError(error.what, where=where, why=error.why, hint=error.hint) from error
