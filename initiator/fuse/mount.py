"""Mount and unmount by fusermount3, the set-user-ID program of libfuse: root is not needed."""

from __future__ import annotations

import array
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from initiator.errors import InitiatorError

PROGRAM: Final = "fusermount3"
TIMEOUT_S: Final = 30.0
_HINT: Final = "apt-get install fuse3"


class MountFailed(InitiatorError):
    """The kernel or fusermount3 refused to mount or to unmount."""


def mount(folder: Path, *, source: str, read_only: bool, allow_other: bool, max_read_bytes: int) -> int:
    """Mount a FUSE file system at a folder; give the descriptor by which the kernel asks, in non-blocking mode.

    Args:
        folder: the mount point.
        source: what mount(8) shows as the device.
        read_only: refuse writes before they are asked for.
        allow_other: let other users in; fusermount3 grants it only where /etc/fuse.conf has user_allow_other.
        max_read_bytes: the longest read that the kernel asks for.

    Raises:
        MountFailed: it is not to be had, and why.
    """
    program = _program(folder)
    # The kernel checks the permission bits, and a comma would begin another option.
    options = ["default_permissions", f"max_read={max_read_bytes}", "subtype=csvd", "nosuid", "nodev"]
    options += [f"fsname={source.replace(',', '_')}", "ro" if read_only else "rw"]
    options += ["allow_other"] if allow_other else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(options), "--", os.fspath(folder)],
            check=False,
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode:
            raise MountFailed("can not mount", where=str(folder), why=_reason(done))
        ours.settimeout(TIMEOUT_S)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            (descriptor,) = array.array("i", data[: array.array("i").itemsize])
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)
            return descriptor
    raise MountFailed("can not mount", where=str(folder), why=f"{program} handed nothing over")


def unmount(folder: Path, *, lazily: bool = False) -> None:
    """Unmount; ``lazily`` also what is in use: it goes when it is not in use any more.

    Raises:
        MountFailed: it is in use, or not mounted.
    """
    done = subprocess.run(
        [_program(folder), "-u", *(["-z"] if lazily else []), "--", os.fspath(folder)],
        check=False,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise MountFailed("can not unmount", where=str(folder), why=_reason(done))


def _program(folder: Path) -> str:
    if not os.path.exists("/dev/fuse"):
        raise MountFailed("can not mount", where=str(folder), why="there is no /dev/fuse", hint="modprobe fuse")
    program = shutil.which(PROGRAM)
    if program is None:
        raise MountFailed("can not mount", where=str(folder), why=f"there is no {PROGRAM}", hint=_HINT)
    return program


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.removeprefix(f"{PROGRAM}: ") for line in done.stderr.splitlines() if line.strip()]
    return "; ".join(lines) or f"{PROGRAM} ended with {done.returncode}"
