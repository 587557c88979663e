"""LIO, the iSCSI target of the Linux kernel, in the guest: made through configfs by hand, as targetcli does it."""

from __future__ import annotations

import hashlib
from typing import Final

from initiator.scsi.target_ports import AccessState
from tests.bench.targets import IQN, Chap, Export
from tests.interop.guest.machine import Guest

CORE: Final = "/sys/kernel/config/target/core/fileio_0/disk"
ENTITY: Final = "/sys/kernel/config/target/iscsi"
GROUP: Final = f"{ENTITY}/{IQN}/tpgt_1"
DISK: Final = "/disks/disk.img"
SIZES: Final = {"64M": 64 << 20}
ON: Final = f"""
    grep -q " /sys/kernel/config " /proc/mounts || mount -t configfs config /sys/kernel/config
    mkdir -p /disks /var/target/pr /var/target/alua
    grep -q " /disks " /proc/mounts || mount -t tmpfs disks /disks
    mkdir -p {ENTITY}
"""
OFF: Final = f"""
    [ -e {GROUP} ] || exit 0
    echo 0 >{GROUP}/enable
    rm {GROUP}/lun/lun_0/port
    rmdir {GROUP}/lun/lun_0 {GROUP}/np/* {GROUP} {ENTITY}/{IQN}
    for group in {CORE}/alua/*; do
        [ ${{group##*/}} = default_tg_pt_gp ] || rmdir $group
    done
    rmdir {CORE}
    rm {DISK}
"""


class Lio:
    """A target with one disk in the guest. It has the face of `tests.bench.targets.Target` as far as tests need it.

    Args:
        guest: where it runs; there is one at a time.
        export: what it serves: a size, and CHAP if any. Digests are there for who asks for them.
        connections: that a session may have.
    """

    name = "lio"

    def __init__(self, guest: Guest, export: Export, *, connections: int = 4) -> None:
        self._guest = guest
        self.running = True
        self.url = f"iscsi://{guest.portal}/{IQN}/0"
        self.portal = guest.portal
        size_bytes = SIZES[export.create or "64M"]
        guest.succeed(ON)
        guest.succeed(OFF)
        guest.succeed(f"""
            truncate -s {size_bytes} {DISK}
            mkdir -p {CORE}
            echo fd_dev_name={DISK},fd_dev_size={size_bytes},fd_buffered_io=1 >{CORE}/control
            echo 1 >{CORE}/enable
            echo 1 >{CORE}/attrib/emulate_tpu
            echo 1 >{CORE}/attrib/emulate_tpws
            echo csvd-test >{CORE}/wwn/vpd_unit_serial
            mkdir -p {GROUP}/lun/lun_0 {GROUP}/np/0.0.0.0:3260
            ln -s {CORE} {GROUP}/lun/lun_0/port
            echo 1 >{GROUP}/attrib/generate_node_acls
            echo 0 >{GROUP}/attrib/demo_mode_write_protect
            echo {connections} >{GROUP}/param/MaxConnections
        """)
        self._demand(export.chap)
        guest.succeed(f"echo 1 >{GROUP}/enable")

    def _demand(self, chap: Chap | None) -> None:
        self._guest.succeed(f"echo {int(chap is not None)} >{GROUP}/attrib/authentication")
        if chap is not None:
            self._guest.succeed(f"""
                echo -n {chap.user} >{GROUP}/auth/userid
                echo -n {chap.secret} >{GROUP}/auth/password
            """)
        if chap is not None and chap.target_user:
            self._guest.succeed(f"""
                echo -n {chap.target_user} >{GROUP}/auth/userid_mutual
                echo -n {chap.target_secret} >{GROUP}/auth/password_mutual
            """)

    def kill(self) -> None:
        """End it at once, as its initiators see it: every session is cut, and none is taken any more."""
        if self.running:
            self.running = False
            self._guest.succeed(OFF)

    def join_group(self, name: str, number: int, state: AccessState) -> None:
        """Put the disk's port into a target port group of its own (SPC-4 section 5.15)."""
        self._guest.succeed(f"""
            mkdir {CORE}/alua/{name}
            echo {number} >{CORE}/alua/{name}/tg_pt_gp_id
            echo 3 >{CORE}/alua/{name}/alua_access_type
            echo {name} >{GROUP}/lun/lun_0/alua_tg_pt_gp
        """)
        self.set_state(name, state)

    def set_state(self, name: str, state: AccessState) -> None:
        """Set the state of a target port group."""
        self._guest.succeed(f"echo {int(state)} >{CORE}/alua/{name}/alua_access_state")

    def content_is(self, model: bytes | bytearray) -> bool:
        """Whether the disk holds this and nothing else."""
        printed = self._guest.succeed(f"md5sum {DISK}")
        return printed.split()[0] == hashlib.md5(model).hexdigest()
