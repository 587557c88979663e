"""Debian packages for the guest: which, in which versions, and how they are fetched; nothing is installed, no root.

apt is asked as for a machine on which nothing is installed yet, so every library that a program needs is named.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WANTED: Final = (
    "linux-image-cloud-amd64",
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "fio",
    "kmod",
    "multipath-tools",
    "open-iscsi",
    "sg3-utils",
    "udev",
    "util-linux",
    "xfsprogs",
)
APT_TIMEOUT_S: Final = 240


class KitFailed(Exception):
    """The kit could not be made; says which program was asked for what, and its last words."""


class Apt:
    """apt-get with an archive of its own, as if nothing were installed.

    Args:
        folder: where packages are kept; and package lists, when the machine's own do not do.
    """

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archives"
        # apt names only what its archive does not have: to be told all, it is shown an empty one.
        self._nothing = folder / "nothing"
        self._lists = folder / "lists"
        self._own_lists = False
        for kept in (self.archive, self._nothing, self._lists):
            (kept / "partial").mkdir(parents=True, exist_ok=True)

    def resolve(self) -> list[str]:
        """The files of all packages that WANTED needs, `NAME_VERSION_ARCHITECTURE.deb`, as apt would install them now.

        Raises:
            KitFailed: apt knows no such package, even with fresh lists.
        """
        try:
            printed = self._install("--print-uris", self._nothing)
        except KitFailed:
            # A machine that never asked for lists, or whose lists are older than the archive.
            self._update()
            printed = self._install("--print-uris", self._nothing)
        return sorted(re.findall(r"^'[^']+' (\S+\.deb) ", printed, re.MULTILINE))

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """Download what is not in the archive yet; gives the paths of `packages`.

        Raises:
            KitFailed: one of them is not to be had.
        """
        files = [self.archive / package for package in packages]
        if not all(file.exists() for file in files):
            self._install("--download-only", self.archive)
        if missing := [file.name for file in files if not file.exists()]:
            raise KitFailed(f"apt-get did not bring {' '.join(missing)}")
        return files

    def _install(self, how: str, archive: Path) -> str:
        return self._apt_get(archive, "--no-install-recommends", "--yes", how, "install", *WANTED)

    def _update(self) -> None:
        self._own_lists = True
        self._apt_get(self._nothing, "update")

    def _apt_get(self, archive: Path, *arguments: str) -> str:
        settings = {
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "1",
            "Dir::State::status": os.devnull,
            "Dir::Cache::archives": str(archive),
            # Caches that only root may write.
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
        }
        if self._own_lists:
            settings["Dir::State::lists"] = str(self._lists)
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return command("apt-get", "-qq", *options, *arguments)


def unpack(files: Sequence[Path], root: Path) -> None:
    """Unpack packages over one another; no script of theirs runs.

    Raises:
        KitFailed: dpkg-deb refused one.
    """
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        command("dpkg-deb", "--extract", str(file), str(root))


def command(*words: str) -> str:
    """What a program printed to stdout.

    Raises:
        KitFailed: it is not there, exits with an error, or does not end in time.
    """
    shown = f"{words[0]} … {words[-1]}"
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=APT_TIMEOUT_S, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KitFailed(f"{shown}: {error}") from error
    if done.returncode:
        raise KitFailed(f"{shown}: exit status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
