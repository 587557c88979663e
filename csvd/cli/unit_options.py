"""The options that say what a logical unit is: the keys of [[target.lun]], for `csvd serve` and `csvd lun`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from csvd.cli.options import SIZE

if TYPE_CHECKING:
    from csvd.target.units import UnitSettings

F = TypeVar("F", bound=Callable[..., Any])

_PHYSICAL: Final = (
    "512",
    "1024",
    "2048",
    "4096",
    "8192",
    "16384",
    "32768",
    "65536",
    "131072",
    "262144",
    "524288",
    "1048576",
)

_OPTIONS: Final = (
    click.option("--create", type=SIZE, metavar="SIZE", help="Make the file, this long, when it is missing."),
    click.option(
        "--provisioning",
        type=click.Choice(("thin", "full")),
        help="thin: blocks take space when they are written; full: all of a new file is allocated.  [default: thin]",
    ),
    click.option("--read-only/--writable", default=None, help="Refuse writes, or take them.  [default: take them]"),
    click.option("--removable/--fixed", default=None, help="A medium that can be ejected, or not.  [default: fixed]"),
    click.option(
        "--block-bytes",
        "--block-size",
        type=click.Choice(("512", "4096")),
        help="Logical block length.  [default: 512]",
    ),
    click.option(
        "--physical-block-bytes",
        type=click.Choice(_PHYSICAL),
        help="What the disk writes at once.  [default: what it says of itself]",
    ),
    click.option("--vendor", metavar="TEXT", help="1 to 8 characters.  [default: CSVD]"),
    click.option("--product", metavar="TEXT", help="1 to 16 characters.  [default: VOLUME]"),
    click.option("--revision", metavar="TEXT", help="1 to 4 characters.  [default: 1]"),
    click.option("--serial", metavar="TEXT", help="Serial number.  [default: made of the disk's path or own name]"),
    click.option("--naa", metavar="HEX", help="NAA designator, 8 or 16 bytes.  [default: made of the serial number]"),
    click.option(
        "--direct/--cached",
        default=None,
        help="Go past the page cache (O_DIRECT), or through it.  [default: through it]",
    ),
    click.option(
        "--soft-threshold-percent",
        type=click.IntRange(0, 100),
        metavar="N",
        help="How full a thin one is when initiators are told; 0 for never.  [default: 0]",
    ),
    click.option(
        "--rotation-rate",
        type=int,
        metavar="RPM",
        help="Rotations a minute; 1 for a medium that does not rotate, 0 to say nothing.  [default: 0]",
    ),
    click.option(
        "--write-cache/--no-write-cache",
        default=None,
        help="Acknowledge writes before they are durable, or after.  [default: before, where the disk has a cache]",
    ),
    click.option("--max-transfer", type=SIZE, metavar="SIZE", help="The longest read or write.  [default: 8M]"),
    click.option(
        "--disk-secret-file",
        type=click.Path(),
        metavar="FILE",
        help="The CHAP secret of the user in an iscsi:// URL, or the key of the Ceph user in an rbd: one; in a file "
        "that only you may read.",
    ),
    click.option(
        "--disk-initiator-name",
        metavar="NAME",
        help="What to be called by the target of an iscsi:// disk.  [default: made of the host's name]",
    ),
    click.option(
        "--disk-timeout-s",
        type=float,
        metavar="SECONDS",
        help="What a call to an iscsi:// or rbd: disk may take, and wait for a lost session.  [default: 30]",
    ),
)


UNIT_KEYS: Final = (
    "create",
    "provisioning",
    "read_only",
    "removable",
    "block_bytes",
    "physical_block_bytes",
    "vendor",
    "product",
    "revision",
    "serial",
    "naa",
    "direct",
    "soft_threshold_percent",
    "rotation_rate",
    "write_cache",
    "max_transfer",
    "disk_secret_file",
    "disk_initiator_name",
    "disk_timeout_s",
)
"""The keys that the options give."""


def unit_options(command: F) -> F:
    """Give a command an option for each key; one that is not given is None."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def keys_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as the keys of [[target.lun]]."""
    keys = {name: value for name, value in options.items() if value is not None}
    for name in ("block_bytes", "physical_block_bytes"):
        if name in keys:
            keys[name] = int(keys[name])
    if "disk_secret_file" in keys:
        # The daemon that is told of it may be elsewhere.
        keys["disk_secret_file"] = os.path.abspath(keys["disk_secret_file"])
    return keys


def unit_settings(number: int, disk: str, options: Mapping[str, Any]) -> UnitSettings:
    """What the options say of one logical unit.

    Raises:
        ConfigError: a value is wrong.
    """
    from csvd.exports.build import settings_of_keys

    return settings_of_keys({**keys_of(options), "number": number, "disk": disk})
