"""``csvd serve``: one node by itself, a target over files, for a pipeline or a desk."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csvd.cli.unit_options import UNIT_KEYS, unit_options, unit_settings
from csvd.errors import ConfigError

if TYPE_CHECKING:
    from csvd.iscsi.access import Access

IQN_PREFIX = "iqn.2026-11.org.csvd"


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What the command line says.

    Args:
        units: the keys of [[target.lun]] that hold for every logical unit; None where nothing was said.
    """

    disks: Sequence[str]
    portals: Sequence[str]
    iqn: str
    chap_user: str | None
    chap_secret_file: Path | None
    chap_target_user: str | None
    chap_target_secret_file: Path | None
    state_directory: Path | None
    units: Mapping[str, Any]


@click.command()
@click.argument("disks", metavar="DISK...", nargs=-1, required=True)
@unit_options
@click.option(
    "--portal",
    "portals",
    multiple=True,
    default=("127.0.0.1:3260",),
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; may be given several times. Port 0 takes a free one.",
)
@click.option("--iqn", metavar="NAME", help=f"The target's name.  [default: {IQN_PREFIX}:the first disk's name]")
@click.option("--chap-user", metavar="USER", help="Demand CHAP of this user, for discovery, too.")
@click.option(
    "--chap-secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its secret, 12 to 255 bytes, in a file that only you may read.",
)
@click.option(
    "--chap-target-user",
    metavar="USER",
    help="As whom the target proves itself when it is asked to (mutual CHAP).",
)
@click.option(
    "--chap-target-secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The target's own secret, another one than the user's.",
)
@click.option(
    "--state-directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to keep, over a restart, what initiators ask to be kept: persistent reservations and saved mode pages."
    "  [default: nothing is kept]",
)
@click.option(
    "--log-level", default="warn", show_default=True, help="debug, info, warn or error; the log is on stderr."
)
def serve(log_level: str, iqn: str | None, **options: Any) -> None:
    """Serve disks as LUNs 0, 1, … of one iSCSI target, until SIGINT or SIGTERM.

    A DISK is a file, a block device, a LUN of another target (iscsi://[user@]host[:port]/name/0), an image of a Ceph
    cluster (rbd:pool/image), or null:SIZE, which keeps nothing. What is said of logical units holds for all of them.
    Once it listens it prints a line "ready URL" for each LUN. At the end it answers what is under way, flushes, and
    exits 0.

    \b
    Examples:
      csvd serve disk.img --create 10G
      csvd serve a.img b.img --portal 127.0.0.1:0 --iqn iqn.2026-11.com.example:ab
      csvd serve golden.img --read-only
      csvd serve full.img --create 1G --provisioning full --block-bytes 4096
      csvd serve disk.img --chap-user joe --chap-secret-file secret
      csvd serve disk.img --chap-user joe --chap-secret-file secret --chap-target-user me --chap-target-secret-file mine
      csvd serve disk.img --state-directory state
      csvd serve iscsi://joe@storage.example/iqn.2026-11.com.example:disks/0 --disk-secret-file secret
      csvd serve rbd:pool/image:id=csvd:keyring=/etc/ceph/ceph.client.csvd.keyring --create 10G
    """
    from csvd import runtime

    runtime.start_logging(log_level)
    units = {key: options.pop(key) for key in UNIT_KEYS}
    if len(options["disks"]) > 1 and (units["serial"] or units["naa"]):
        raise click.UsageError("--serial and --naa name one disk")
    settings = ServeSettings(iqn=iqn or default_iqn(options["disks"][0]), units=units, **options)
    sys.exit(runtime.run_until_signal(lambda reactor: start(reactor, settings), program="csvd serve"))


def default_iqn(disk: str) -> str:
    """Make a target's name of a disk's: of its file or image, or of what stands after the host in its URL."""
    _, is_url, place = disk.partition("://")
    if disk.startswith("rbd:"):
        from csvd.storage.rbd.url import parse_rbd_url

        name = parse_rbd_url(disk).image
    else:
        name = place.partition("/")[2] if is_url else Path(disk).stem
    word = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".-")[-150:].lstrip(".-")
    return f"{IQN_PREFIX}:{word or 'disk'}"


def access_of(settings: ServeSettings) -> Access:
    """Settle who may log in.

    Raises:
        ConfigError: a user without a secret or the other way round, or a file that others may read.
    """
    from csvd.iscsi.access import OPEN, Access
    from csvd.iscsi.chap import Credentials, check_secret
    from csvd.secret_file import read_secret

    def credentials(user: str | None, path: Path | None, options: str) -> Credentials | None:
        if user is None and path is None:
            return None
        if user is None or path is None:
            raise ConfigError(f"{options} go together")
        return Credentials(user, check_secret(read_secret(path), str(path)))

    user = credentials(settings.chap_user, settings.chap_secret_file, "--chap-user and --chap-secret-file")
    proof = credentials(
        settings.chap_target_user,
        settings.chap_target_secret_file,
        "--chap-target-user and --chap-target-secret-file",
    )
    if user is None:
        if proof is not None:
            raise ConfigError("a target proves itself only to who proves himself", hint="give --chap-user, too")
        return OPEN
    return Access(credentials={user.user: user}, proof=proof)


async def start(reactor: Any, settings: ServeSettings) -> Callable[[], Awaitable[None]]:
    """Open the disks, listen, print the ready lines; give what stops it all.

    Raises:
        CsvdError: a disk, a portal, a name or a secret is wrong; nothing is left open then.
    """
    from csvd.iscsi.names import check_iscsi_name
    from csvd.iscsi.portals import PortalGroup
    from csvd.storage.pool import DiskPool
    from csvd.target.export import Export
    from csvd.target.kept_state import KeptState
    from csvd.target.service import TargetService
    from csvd.target.units import Units

    access = access_of(settings)
    name = check_iscsi_name(settings.iqn)
    async with contextlib.AsyncExitStack() as undo:
        pool = DiskPool(reactor)
        keeper = None
        if settings.state_directory is not None:
            keeper = KeptState(settings.state_directory, pool)
            undo.callback(keeper.close)
        undo.push_async_callback(pool.stop)
        opener = Units(pool)
        undo.push_async_callback(opener.close_all)
        units = []
        for number, url in enumerate(settings.disks):
            unit = await opener.open(unit_settings(number, url, settings.units))
            if keeper is not None:
                keeper.attach(unit)
            units.append(unit)
        export = Export(name=name, logical_units=units, access=access)
        service = TargetService(reactor, [export], discovery_access=access, keeper=keeper)
        portals = service.start([PortalGroup(1, tuple(settings.portals))])
        kept = undo.pop_all()

    async def stop() -> None:
        await service.stop()
        await kept.aclose()

    for portal in portals:
        for unit in units:
            sys.stdout.write(f"ready iscsi://{portal}/{name}/{unit.number}\n")
    sys.stdout.flush()
    return stop
