"""Hosts that have a SCSI disk, with what their kernel's ioctl does: the commands go to a logical unit of csvd."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any

from csvd.scsi.outcome import Status
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.reserving_host import Host
from tests.unit.scsi.store import Store

SG_IO, SG_SCSI_RESET, BLKSSZGET = 0x2285, 0x2284, 0x1268


class ScsiHost:
    """One host.

    Attributes:
        refuses: the errno of every command, where the kernel does not let this process send any.
        fails: what the host adapter says of the next commands.
        resets: how often the unit was reset.
        cdbs: what was sent.
    """

    def __init__(self, target: TargetDevice, name: str, store: Store) -> None:
        self.host = Host(target, name)
        self.host.store = store
        self.refuses = 0
        self.fails: list[int] = []
        self.resets = 0
        self.cdbs: list[bytes] = []

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
        """As fcntl.ioctl."""
        os.fstat(fd)
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        if request == BLKSSZGET:
            return struct.pack("i", 512)
        if request == SG_SCSI_RESET:
            assert argument.value == 1
            self.resets += 1
            return 0
        assert request == SG_IO
        if ctypes.sizeof(ctypes.c_void_p) == 8:
            assert ctypes.sizeof(argument) == 88, "struct sg_io_hdr of a 64-bit kernel"
        self._run(argument)
        return 0

    def _run(self, header: Any) -> None:
        assert header.interface_id == ord("S")
        cdb = ctypes.string_at(header.cmdp, header.cmd_len)
        self.cdbs.append(cdb)
        if self.fails:
            header.host_status = self.fails.pop(0)
            return
        sends = header.dxfer_direction == -2
        data = ctypes.string_at(header.dxferp, header.dxfer_len) if sends else b""
        reply = self.host.client.run(cdb, data_out=data, store=self.host.store)
        header.status = int(reply.status)
        if reply.status == Status.CHECK_CONDITION:
            ctypes.memmove(header.sbp, reply.sense, len(reply.sense))
            header.sb_len_wr = len(reply.sense)
        if header.dxfer_direction == -3:
            assert len(reply.data_in) <= header.dxfer_len
            ctypes.memmove(header.dxferp, reply.data_in, len(reply.data_in))
            header.resid = header.dxfer_len - len(reply.data_in)
        assert header.timeout_ms > 0, errno.errorcode
