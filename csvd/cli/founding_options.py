"""What csvd init and csvd join are told of the node: by its configuration, or word by word."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from csvd.errors import ConfigError

if TYPE_CHECKING:
    from csvd.cluster.founding import Founder

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class FoundingChoice:
    """What was said of the node; None where nothing was."""

    config: Path | None
    state_directory: Path | None
    node: str | None
    listen: str | None
    advertise: str | None


def founding_options(command: F) -> F:
    """Give a command a ``choice`` of the node, by options."""

    def with_choice(
        config: Path | None,
        state_directory: Path | None,
        node: str | None,
        listen: str | None,
        advertise: str | None,
        **arguments: Any,
    ) -> Any:
        return command(choice=FoundingChoice(config, state_directory, node, listen, advertise), **arguments)

    functools.update_wrapper(with_choice, command)
    path = click.Path(path_type=Path)
    decorated: Any = with_choice
    for option in (
        click.option("--advertise", metavar="HOST:PORT", help="Where the other nodes find it.  [default: --listen]"),
        click.option("--listen", metavar="HOST:PORT", help="Where it listens for the others.  [default: of --config]"),
        click.option("--node", metavar="NAME", help="Its name.  [default: of --config, else the host's name]"),
        click.option("--state-directory", type=path, metavar="DIR", help="Where it keeps its state, without --config."),
        click.option("--config", type=path, metavar="FILE", help="The node's configuration."),
    ):
        decorated = option(decorated)
    return cast("F", decorated)


@dataclass(frozen=True, slots=True)
class ChosenNode:
    """The node that a choice comes to.

    Attributes:
        state_directory: what is held while it is changed.
        listen: where it is to listen.
        founder: its place in the cluster.
        config: its configuration, where there is one.
    """

    state_directory: Path
    listen: str
    founder: Founder
    config: Path | None

    def next_steps(self) -> str:
        """What to do to run it."""
        if self.config is not None:
            return f"next: csvd run --config {self.config}"
        keys = (
            f'[node]\nname = "{self.founder.node}"\nstate_directory = "{self.state_directory.resolve()}"\n\n'
            f'[cluster]\nlisten = "{self.listen}"\n'
        )
        if self.listen != self.founder.address:
            keys += f'advertise = "{self.founder.address}"\n'
        return f"next: give csvd run --config FILE a file with\n\n{keys}"


def chosen_node(choice: FoundingChoice) -> ChosenNode:
    """Settle what was said.

    Raises:
        ConfigError: the configuration is wrong, or what was said does not fit it or cannot be.
        click.UsageError: there is neither a configuration nor a state directory, or both.
    """
    from csvd.cluster.founding import Founder
    from csvd.config.load import check_may_be_clustered, load
    from csvd.config.schema import DEFAULT_CLUSTER_ADDRESS
    from csvd.daemon import CLUSTER_FOLDER

    if (choice.config is None) == (choice.state_directory is None):
        raise click.UsageError("give --config FILE or --state-directory DIR")
    if choice.config is not None:
        section = load(choice.config)
        check_may_be_clustered(section, where=str(choice.config))
        node, state_directory = section.node.name, section.node.state_directory
        if choice.node not in (None, node):
            raise ConfigError(f"the configuration calls this node {node}", where=str(choice.config))
        listen = choice.listen or section.cluster.listen
        advertise = choice.advertise or choice.listen or section.cluster.advertise or listen
    else:
        assert choice.state_directory is not None
        node = choice.node or socket.gethostname().partition(".")[0].lower()
        state_directory = choice.state_directory
        listen = choice.listen or DEFAULT_CLUSTER_ADDRESS
        advertise = choice.advertise or listen
    founder = Founder(state_directory / CLUSTER_FOLDER, node, _reachable(advertise))
    return ChosenNode(state_directory, _checked(listen), founder, choice.config)


def _checked(address: str) -> str:
    from csvd.config.values import ADDRESS

    try:
        return str(ADDRESS.read(address))
    except ConfigError as error:
        raise ConfigError(f"the address {error.what}", hint=error.hint) from error


def _reachable(address: str) -> str:
    """An address at which others can find a node."""
    from csvd.iscsi.portals import split_address

    host, port = split_address(_checked(address))
    try:
        is_any = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        is_any = False
    if is_any or port == 0:
        raise ConfigError("no other node can find this one there", where=address, hint="say where by --advertise")
    return address
