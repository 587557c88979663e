"""The guest kit: a kernel and an initramfs out of Debian's packages, made once and kept until a package or this recipe
changes.

`python -m tests.interop.guest.kit` makes it and prints where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.guest.initramfs import write_initramfs
from tests.interop.guest.packages import Apt, KitFailed, unpack

HERE: Final = Path(__file__).parent
RECIPE: Final = ("packages.py", "initramfs.py", "kit.py", "init.sh")
# What the guest's programs read that no package brings ready made.
SETTINGS: Final = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\ndialout:x:20:\nvideo:x:44:\n",
    "etc/hosts": b"127.0.0.1 localhost\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    "etc/iscsi/initiatorname.iscsi": b"InitiatorName=iqn.2026-11.io.csvd.guest:first\n",
}


@dataclass(frozen=True, slots=True)
class Kit:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path


def kit() -> Kit:
    """The kit; it is made when there is none of these packages and this recipe.

    Raises:
        KitFailed: apt does not give a package, or something is not in them.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache):
        apt = Apt(cache)
        packages = apt.resolve()
        folder = cache / _name(packages)
        if not folder.exists():
            _make(apt, packages, folder)
    return Kit(folder / "kernel", folder / "initramfs")


def cache_folder() -> Path:
    """Where kits are kept: of this user, outside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csvd" / "guest-kit"


def _name(packages: list[str]) -> str:
    digest = hashlib.sha256()
    for file in RECIPE:
        digest.update((HERE / file).read_bytes())
    digest.update("\n".join(packages).encode())
    return f"kit-{digest.hexdigest()[:16]}"


def _make(apt: Apt, packages: list[str], folder: Path) -> None:
    cache = folder.parent
    files = apt.fetch(packages)
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as scratch:
        root, made = Path(scratch) / "root", Path(scratch) / "kit"
        made.mkdir()
        unpack(files, root)
        kernels = list((root / "boot").glob("vmlinuz-*"))
        if len(kernels) != 1:
            raise KitFailed(f"one kernel is wanted, the packages have {len(kernels)}")
        shutil.copyfile(kernels[0], made / "kernel")
        with (made / "initramfs").open("wb") as archive:
            write_initramfs(root, {**SETTINGS, "init": (HERE / "init.sh").read_bytes()}, archive)
        made.rename(folder)
    _forget_others(cache, folder, {file.name for file in files})


def _forget_others(cache: Path, folder: Path, wanted: set[str]) -> None:
    """Delete what no kit needs any more: kits of other packages or recipes, and their packages."""
    for other in cache.glob("kit-*"):
        if other != folder:
            shutil.rmtree(other)
    for package in (cache / "archives").glob("*.deb"):
        if package.name not in wanted:
            package.unlink()


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    try:
        made = kit()
    except KitFailed as error:
        raise SystemExit(f"error: no guest kit: {error}") from None
    size_mib = made.initramfs.stat().st_size >> 20
    sys.stdout.write(f"guest kit: {made.kernel.parent} ({size_mib} MiB of initramfs)\n")


if __name__ == "__main__":
    main()
