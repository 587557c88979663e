"""SCSI commands to a disk of the kernel, past its block layer (SG_IO, as in <scsi/sg.h>). They block: use a thread.

It takes the capability CAP_SYS_RAWIO: the kernel lets others send harmless commands only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_SG_IO: Final = 0x2285
_SG_SCSI_RESET: Final = 0x2284
_SG_SCSI_RESET_DEVICE: Final = 1
_INTERFACE: Final = ord("S")
_NONE, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3
_SENSE_BYTES: Final = 96

Ioctl = Callable[..., Any]


class _Header(ctypes.Structure):
    """struct sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout_ms", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Done:
    """How a command has ended.

    Args:
        status: the SCSI status.
        sense: what came with it.
        data: what was read.
    """

    status: int
    sense: bytes
    data: bytes


def run_command(
    fd: int, cdb: bytes, *, data_out: bytes = b"", room_bytes: int = 0, timeout_s: float, ioctl: Ioctl = fcntl.ioctl
) -> Done:
    """Run a command to its end.

    Args:
        data_out: what it sends; or
        room_bytes: for what it reads.

    Raises:
        OSError: it was not sent: EPERM, ENOTTY; or EIO: the host adapter failed, it is unknown what became of it.
    """
    command = ctypes.create_string_buffer(cdb, len(cdb))
    sense = ctypes.create_string_buffer(_SENSE_BYTES)
    data = ctypes.create_string_buffer(data_out or bytes(max(room_bytes, 1)), len(data_out) or max(room_bytes, 1))
    length_bytes = len(data_out) or room_bytes
    header = _Header(
        interface_id=_INTERFACE,
        dxfer_direction=_TO_DEVICE if data_out else _FROM_DEVICE if room_bytes else _NONE,
        cmd_len=len(cdb),
        mx_sb_len=_SENSE_BYTES,
        dxfer_len=length_bytes,
        dxferp=ctypes.addressof(data),
        cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense),
        timeout_ms=int(timeout_s * 1000),
    )
    ioctl(fd, _SG_IO, header)
    if header.host_status:
        raise OSError(errno.EIO, f"the host adapter has failed ({header.host_status:#x})")
    read_bytes = max(0, room_bytes - max(0, header.resid))
    return Done(header.status, sense.raw[: header.sb_len_wr], data.raw[:read_bytes] if not data_out else b"")


def reset_unit(fd: int, *, ioctl: Ioctl = fcntl.ioctl) -> None:
    """Reset the logical unit: what is under way there is ended.

    Raises:
        OSError: it was not.
    """
    ioctl(fd, _SG_SCSI_RESET, ctypes.c_int(_SG_SCSI_RESET_DEVICE))
