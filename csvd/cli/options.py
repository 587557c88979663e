"""Options that several commands take, and the client of the daemon that they choose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from csvd.config.values import parse_size
from csvd.errors import ConfigError

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

DEFAULT_SOCKET = "/run/csvd/control.sock"
SOCKET_VARIABLE = "CSVD_SOCKET"

F = TypeVar("F", bound=Callable[..., Any])


def SIZE(value: str) -> int:  # noqa: N802 - a type of click's, written as click writes its own
    """A number of bytes, with K, M, G or T for powers of 1,024."""
    try:
        return parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def asks_daemon(command: F) -> F:
    """Give a command a ``client`` of the daemon, and the options --socket and --json (``as_json``)."""

    def with_client(context: click.Context, /, socket_path: str | None, **arguments: Any) -> Any:
        return context.invoke(command, client=_client(context, socket_path), **arguments)

    functools.update_wrapper(with_client, command)
    socket_option = click.option(
        "--socket",
        "socket_path",
        metavar="PATH",
        help=f"The daemon's control socket.  [env: {SOCKET_VARIABLE}; default: {DEFAULT_SOCKET}]",
    )
    decorated: Any = json_option(socket_option(click.pass_context(with_client)))
    return cast("F", decorated)


def _client(context: click.Context, socket_path: str | None) -> ControlClient:
    from csvd.api.client import ControlClient

    chosen = socket_path or context.find_root().params.get("socket_path") or DEFAULT_SOCKET
    return ControlClient(chosen)
