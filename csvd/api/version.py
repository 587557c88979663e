"""Which csvd this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The version of the installed package; "unknown" for a source tree that was not installed."""
    try:
        return metadata.version("csvd")
    except metadata.PackageNotFoundError:
        return "unknown"
