"""The options of a disk over several paths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from initiator.cli import options
from initiator.engine.paths import PathSettings, Policy
from initiator.multipath_options import MultipathOptions
from initiator.url import IscsiUrl


@dataclass(frozen=True, slots=True)
class PathChoice:
    """What the options say of paths."""

    more: tuple[IscsiUrl, ...]
    discover: bool
    policy: Policy

    def to(self, url: IscsiUrl) -> IscsiUrl | list[IscsiUrl]:
        """Give what :func:`initiator.client.connect` takes as its place."""
        return [url, *self.more] if self.more else url

    def how(self) -> bool | MultipathOptions:
        """Give what it takes as ``multipath``."""
        if not self.discover and not self.more:
            return False
        return MultipathOptions(paths=PathSettings(policy=self.policy), discover=self.discover or None)


def several_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of several paths; they come as one ``paths``."""

    @functools.wraps(command)
    def run(*args: Any, path: tuple[IscsiUrl, ...], multipath: bool, path_policy: str, **others: Any) -> Any:
        return command(*args, paths=PathChoice(path, multipath, Policy(path_policy)), **others)

    added: Callable[..., Any] = run
    for option in reversed(
        (
            click.option(
                "--path",
                type=options.url,
                multiple=True,
                metavar="URL",
                help="Another path to the same disk; may be repeated.",
            ),
            click.option(
                "--multipath",
                is_flag=True,
                help="Use all portals that discovery names of the target.",
            ),
            click.option(
                "--path-policy",
                type=click.Choice([policy.value for policy in Policy]),
                default=Policy.ALUA.value,
                show_default=True,
                help="How commands are spread over the paths.",
            ),
        )
    ):
        added = option(added)
    return added
