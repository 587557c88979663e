"""Options that say who may log in, and which target is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

F = TypeVar("F", bound=Callable[..., Any])

_CHAP: Final = (
    click.option("--chap-user", metavar="USER", help="Demand CHAP, with this name."),
    click.option(
        "--chap-secret-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The secret, 12 to 255 bytes, in a file that only the daemon's user may read.",
    ),
    click.option("--mutual-user", metavar="USER", help="The name by which the target proves itself."),
    click.option(
        "--mutual-secret-file", type=click.Path(path_type=Path), metavar="FILE", help="The secret of that name."
    ),
)

target_option = click.option(
    "--target", "target", metavar="IQN", help="The target.  [default: the only one that the node has]"
)


def chap_options(command: F) -> F:
    """Give a command the options of CHAP."""
    for option in reversed(_CHAP):
        command = option(command)
    return command


def chap_keys(given: Mapping[str, str | Path | None]) -> dict[str, str] | None:
    """The options of CHAP as the keys of [target.chap]; None where there are none. Files are named from the root."""
    keys = {
        "user": given["chap_user"],
        "secret_file": given["chap_secret_file"],
        "mutual_user": given["mutual_user"],
        "mutual_secret_file": given["mutual_secret_file"],
    }
    said = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in keys.items() if value}
    if not said:
        return None
    for one, other in (("chap-user", "chap-secret-file"), ("mutual-user", "mutual-secret-file")):
        if (given[one.replace("-", "_")] is None) != (given[other.replace("-", "_")] is None):
            raise click.UsageError(f"--{one} and --{other} go together")
    if "user" not in said:
        raise click.UsageError("--mutual-user goes with --chap-user")
    return said


def chosen(client: ControlClient, target: str | None) -> str:
    """The target that is meant: the one that is named, or the only one."""
    if target is not None:
        return target
    names = [str(one["name"]) for one in client.targets()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise click.UsageError("the node has no target: csvd target create")
    raise click.UsageError(f"--target is needed: there are {', '.join(names)}")
