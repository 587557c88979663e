"""Kinds of option that several commands take."""

from __future__ import annotations

import click

from csvd.config.values import parse_size
from csvd.errors import ConfigError


def SIZE(value: str) -> int:  # noqa: N802 - a type of click's, written as click writes its own
    """A number of bytes, with K, M, G or T for powers of 1,024."""
    try:
        return parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
