"""The errors of the VM role: what a guest, its process or its owner can be told."""

from __future__ import annotations

from csvd.errors import CsvdError


class VmError(CsvdError):
    """A guest could not do what it was asked, or may not be asked it."""


class GuestEnded(VmError):
    """The process of the guest is gone; ``why`` tells how it ended."""


class GuestTimeout(VmError):
    """The guest did not answer in time. It may have done what it was asked, or may yet do it."""


class GuestRefused(VmError):
    """The guest answered with an error; ``why`` is its own sentence."""


class ControlProtocolError(VmError):
    """What came over the control channel is not a conversation of QMP."""


class GuestNotHere(VmError):
    """There is no guest of that name, or another node owns it."""


class GuestBusy(VmError):
    """Something else is being done with the guest: a start, a stop, a migration."""


class ImageFileError(VmError):
    """The file of a memory image, or the note beside it, could not be made, read or removed."""
