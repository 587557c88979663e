"""A session of libiscsi's that stays logged in: its library, by ctypes; each call as its own tools make it."""

from __future__ import annotations

import ctypes
import ctypes.util
from types import TracebackType
from typing import Any

_NORMAL = 2
_HEADER_DIGEST_NONE = 0
_GOOD = 0


def _library() -> Any:
    library = ctypes.CDLL(ctypes.util.find_library("iscsi") or "libiscsi.so.7")
    for name in (
        "iscsi_create_context",
        "iscsi_testunitready_sync",
        "iscsi_reportluns_sync",
        "iscsi_readcapacity16_sync",
        "scsi_datain_unmarshall",
    ):
        getattr(library, name).restype = ctypes.c_void_p
    library.iscsi_get_error.restype = ctypes.c_char_p
    return library


class _ReportLuns(ctypes.Structure):
    _fields_ = (("num", ctypes.c_uint32), ("luns", ctypes.c_uint16 * 256))


class _ReadCapacity16(ctypes.Structure):
    _fields_ = (("returned_lba", ctypes.c_uint64), ("block_length", ctypes.c_uint32))


class LibiscsiSession:
    """Logged in to LUN 0 of a target; its pending unit attention conditions are cleared then, as libiscsi does."""

    def __init__(self, portal: str, target: str, initiator: str) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.iscsi_create_context(initiator.encode()))
        self._library.iscsi_set_targetname(self._context, target.encode())
        self._library.iscsi_set_session_type(self._context, _NORMAL)
        self._library.iscsi_set_header_digest(self._context, _HEADER_DIGEST_NONE)
        self._library.iscsi_set_noautoreconnect(self._context, 1)
        assert self._library.iscsi_full_connect_sync(self._context, portal.encode(), 0) == 0, self.error()

    def __enter__(self) -> LibiscsiSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._library.iscsi_destroy_context(self._context)

    def error(self) -> str:
        """What the library says of the last call that failed."""
        return str(self._library.iscsi_get_error(self._context).decode())

    def test_unit_ready(self, lun: int = 0) -> str:
        """TEST UNIT READY: nothing when it is GOOD, else what the library says."""
        task = self._library.iscsi_testunitready_sync(self._context, lun)
        return self._status(task)

    def luns(self) -> list[int]:
        """REPORT LUNS."""
        task = self._library.iscsi_reportluns_sync(self._context, 0, 4096)
        assert self._status(task, free=False) == "", self.error()
        data = self._library.scsi_datain_unmarshall(ctypes.c_void_p(task))
        report = ctypes.cast(data, ctypes.POINTER(_ReportLuns)).contents
        found = list(report.luns[: report.num])
        self._library.scsi_free_scsi_task(ctypes.c_void_p(task))
        return found

    def capacity_bytes(self, lun: int = 0) -> int:
        """READ CAPACITY(16)."""
        task = self._library.iscsi_readcapacity16_sync(self._context, lun)
        assert self._status(task, free=False) == "", self.error()
        data = self._library.scsi_datain_unmarshall(ctypes.c_void_p(task))
        capacity = ctypes.cast(data, ctypes.POINTER(_ReadCapacity16)).contents
        size_bytes = (capacity.returned_lba + 1) * capacity.block_length
        self._library.scsi_free_scsi_task(ctypes.c_void_p(task))
        return int(size_bytes)

    def _status(self, task: int | None, *, free: bool = True) -> str:
        assert task is not None, self.error()
        # The first member of struct scsi_task is its status.
        status = ctypes.cast(task, ctypes.POINTER(ctypes.c_int)).contents.value
        text = "" if status == _GOOD else self.error()
        if free:
            self._library.scsi_free_scsi_task(ctypes.c_void_p(task))
        return text
