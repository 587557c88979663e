"""``csv-initiator attach``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from twisted.internet.defer import CancelledError

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.fuse.disk_file import DiskFile
from initiator.fuse.mount import MountFailed, mount, unmount
from initiator.fuse.protocol import Owner
from initiator.fuse.server import MAX_TRANSFER_BYTES, FuseServer
from initiator.parallel import in_thread
from initiator.url import IscsiUrl

DEFAULT_NAME: Final = "disk.img"


def file_name(value: str) -> str:
    """Kind of option: the name of a file in a folder."""
    if value in ("", ".", "..") or "/" in value or "\0" in value or len(os.fsencode(value)) > 255:
        raise click.BadParameter(f"{value!r} is no name of a file")
    return value


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@click.argument("mountpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--name", type=file_name, default=DEFAULT_NAME, show_default=True, metavar="NAME", help="The file's name."
)
@click.option("--read-only", is_flag=True, help="Let nothing be written.")
@click.option(
    "--direct", is_flag=True, help="Past this host's page cache: for a disk that other hosts write meanwhile."
)
@click.option("--allow-other", is_flag=True, help="Let other users in; /etc/fuse.conf has to allow it.")
@click.option("--background", is_flag=True, help="Return when it is attached, and go on behind.")
@login_options
def attach(
    url: IscsiUrl,
    mountpoint: Path,
    name: str,
    read_only: bool,
    direct: bool,
    allow_other: bool,
    background: bool,
    login: Login,
) -> None:
    """Show a disk as the file MOUNTPOINT/disk.img, by FUSE: any program can use it, without a kernel module for iSCSI
    and without root. It ends at SIGINT or SIGTERM, or by fusermount3 -u MOUNTPOINT.

    The file is as long as the disk and stays so. fsync makes durable (SYNCHRONIZE CACHE), punching holes and zeroing by
    fallocate unmaps (WRITE SAME with UNMAP), where the target has it. Errors of the disk are those of the file: EROFS,
    ENOSPC, EIO. While the target is gone the file waits, up to --timeout, and goes on when it is back.

    \b
    Examples:
      csv-initiator attach iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 /mnt/disk
      csv-initiator attach iscsi://joe@192.0.2.7/iqn.2026-11.org.csvd:disk/0 /mnt/disk \\
        --chap-secret-file joe.secret --background && mkfs.ext4 /mnt/disk/disk.img && fusermount3 -u /mnt/disk
    """
    how = login.of(url.user)
    attached = _into_background() if background else partial(click.echo, f"attached {url} as {mountpoint / name}")

    async def work(reactor: Any) -> None:
        disk = await client.connect(
            url,
            reactor=reactor,
            **how,
        )
        async with disk:
            descriptor = await in_thread(
                reactor,
                lambda: mount(
                    mountpoint,
                    source=str(url),
                    read_only=read_only,
                    allow_other=allow_other,
                    max_read_bytes=MAX_TRANSFER_BYTES,
                ),
            )
            server = FuseServer(
                descriptor,
                DiskFile(disk, read_only=read_only),
                name=name,
                owner=Owner(os.geteuid(), os.getegid(), 0o400 if read_only else 0o600, int(time.time())),
                direct=direct,
                reactor=reactor,
            )
            server.start()
            attached()
            await _serve(server, reactor, mountpoint)
            if not read_only:
                await disk.flush()

    runtime.run(work)


async def _serve(server: FuseServer, reactor: Any, mountpoint: Path) -> None:
    """Serve until it is unmounted, or until this is cancelled (SIGINT, SIGTERM): then unmount it."""
    try:
        await server.ended
    except CancelledError:
        # Meanwhile it answers: what is in the kernel's hands goes to the disk first.
        try:
            await in_thread(reactor, lambda: unmount(mountpoint))
        except MountFailed as busy:
            click.echo(f"{runtime.PROGRAM}: {busy}: its users get errors from now on", err=True)
            await in_thread(reactor, lambda: unmount(mountpoint, lazily=True))
    await server.close()


def _into_background() -> Callable[[], None]:
    """Go on in a child process. The parent ends when the child calls what this gives, or with the child's status."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        if os.read(reading, 1):
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1)
    os.close(reading)
    os.setsid()

    def attached() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        os.write(writing, b"+")
        os.close(writing)

    return attached
