"""The guest's root file system: a choice of files out of unpacked packages, as a cpio archive that the kernel takes.

cpio(5), the "new ASCII" format: a header of hexadecimal digits, the name, and the content, each padded to four bytes.
The kernel's documentation (driver-api/early-userspace/buffer-format) says what it reads of it.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

from tests.interop.guest.packages import KitFailed, command

LIBRARIES: Final = ("lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph")
LOADER: Final = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
# Programs, and what they open by name; libraries that they are linked with follow by themselves.
FILES: Final = (
    "bin/busybox",
    "bin/udevadm",
    "etc/iscsi/iscsid.conf",
    "lib/multipath/lib*.so",
    "lib/systemd/systemd-udevd",
    "lib/udev/rules.d/50-udev-default.rules",
    "lib/udev/rules.d/55-dm.rules",
    "lib/udev/rules.d/56-dm-mpath.rules",
    "lib/udev/rules.d/60-block.rules",
    "lib/udev/rules.d/60-multipath.rules",
    "lib/udev/rules.d/60-persistent-storage.rules",
    "lib/udev/rules.d/60-persistent-storage-dm.rules",
    "lib/udev/rules.d/95-dm-notify.rules",
    "lib/udev/scsi_id",
    "lib/x86_64-linux-gnu/libgcc_s.so.1",  # glibc opens it when a thread is cancelled
    "lib64/ld-linux-x86-64.so.2",
    "sbin/blkid",
    "sbin/blockdev",
    "sbin/dmsetup",
    "sbin/e2fsck",
    "sbin/fstrim",
    "sbin/iscsiadm",
    "sbin/iscsid",
    "sbin/mke2fs",
    "sbin/mkfs.ext4",
    "sbin/mkfs.xfs",
    "sbin/mpathpersist",
    "sbin/multipath",
    "sbin/multipathd",
    "sbin/resize2fs",
    "sbin/xfs_repair",
    "usr/bin/cksum",
    "usr/bin/fio",
    "usr/bin/sg_*",
    "usr/sbin/xfs_growfs",
    "usr/sbin/xfs_io",
)
MODULES: Final = (
    "virtio_pci",
    "virtio_net",
    "sd_mod",
    "sg",
    "iscsi_tcp",
    "dm_multipath",
    "dm_round_robin",
    "dm_service_time",
    "crc32c_intel",
    "xfs",
    "sha3_generic",  # LIO takes it for CHAP whether the kernel has it or not
    "target_core_file",
    "iscsi_target_mod",
)
EMPTY_FOLDERS: Final = ("dev", "proc", "sys", "tmp", "run", "mnt", "root", "etc/multipath", "var/lib")


def write_initramfs(root: Path, added: dict[str, bytes], archive: IO[bytes]) -> None:
    """Write the guest's root file system.

    Args:
        root: unpacked packages.
        added: files that are in no package, by path; all may be executed.
        archive: where the archive goes.

    Raises:
        KitFailed: a file, library or module that the guest needs is in no package.
    """
    modules = _modules(root)
    order = "".join(f"/{module}\n" for module in modules).encode()
    cpio = CpioWriter(archive)
    for folder in EMPTY_FOLDERS:
        cpio.folder(folder)
    for path in sorted({*_programs(root), *modules}):
        cpio.copy(root, path)
    for path, content in {**added, "etc/modules": order}.items():
        cpio.file(path, content, 0o755)
    cpio.end()


def _programs(root: Path) -> set[str]:
    paths: set[str] = set()
    for pattern in FILES:
        # Of symbolic links with absolute targets pathlib would say that they are not there.
        found = [os.path.relpath(path, root) for path in glob.glob(str(root / pattern))]
        if not found:
            raise KitFailed(f"no package has {pattern}")
        paths.update(found)
    linked = [path for path in paths if _is_dynamic(root / path)]
    for path in linked:
        paths.update(_needed(root, path))
    return paths | {LOADER}


def _is_dynamic(file: Path) -> bool:
    """Whether it is an ELF file that names a loader or libraries; a symbolic link stands for nothing of its own."""
    if file.is_symlink():
        return False
    with file.open("rb") as content:
        return content.read(4) == b"\x7fELF" and file.name != "busybox"


def _needed(root: Path, path: str) -> list[str]:
    """The libraries that the loader of the packages finds for a program: link and file, as paths in `root`."""
    search = ":".join(str(root / folder) for folder in LIBRARIES)
    printed = command(str(root / LOADER), "--library-path", search, "--list", str(root / path))
    if "not found" in printed:
        raise KitFailed(f"{path} needs a library that no package has: {printed}")
    return re.findall(rf"=> {re.escape(str(root))}/(\S+)", printed)


def _modules(root: Path) -> list[str]:
    """The kernel modules of MODULES and those that they need, in an order in which they can be loaded."""
    files = {path.stem.replace("-", "_"): str(path.relative_to(root)) for path in (root / "lib/modules").rglob("*.ko")}
    ordered: dict[str, None] = {}

    def take(name: str) -> None:
        if name not in files:
            raise KitFailed(f"the kernel's package has no module {name}")
        depends = re.search(rb"\0depends=([^\0]*)\0", (root / files[name]).read_bytes())
        for below in filter(None, depends[1].decode().split(",") if depends else ()):
            take(below.replace("-", "_"))
        ordered[files[name]] = None

    for name in MODULES:
        take(name)
    return list(ordered)


class CpioWriter:
    """Writes an archive; folders above a path are made as they are needed, and everything belongs to root.

    Args:
        archive: where it goes.
    """

    def __init__(self, archive: IO[bytes]) -> None:
        self._archive = archive
        self._written: set[str] = set()

    def folder(self, path: str) -> None:
        """An empty folder."""
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, mode: int) -> None:
        """A file with these permissions."""
        self._entry(path, stat.S_IFREG | mode, content)

    def copy(self, root: Path, path: str) -> None:
        """A file out of `root`; of a symbolic link, link and target."""
        source = root / path
        if source.is_symlink():
            target = os.readlink(source)
            self._entry(path, stat.S_IFLNK | 0o777, target.encode())
            inside = os.path.normpath(os.path.join("/" + os.path.dirname(path), target)).lstrip("/")
            self.copy(root, inside)
        else:
            self.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def end(self) -> None:
        """The entry that ends an archive."""
        self._write("TRAILER!!!", 0, b"")

    def _entry(self, path: str, mode: int, content: bytes) -> None:
        if path in self._written:
            return
        for parent in _parents(path):
            if parent not in self._written:
                self._written.add(parent)
                self._write(parent, stat.S_IFDIR | 0o755, b"")
        self._written.add(path)
        self._write(path, mode, content)

    def _write(self, path: str, mode: int, content: bytes) -> None:
        name = path.encode() + b"\0"
        inode = len(self._written)
        # Magic, inode, mode, uid, gid, links, mtime, size, device (4), name length, checksum.
        fields: Sequence[int] = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + name, content):
            self._archive.write(part)
            self._archive.write(b"\0" * (-len(part) % 4))


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
