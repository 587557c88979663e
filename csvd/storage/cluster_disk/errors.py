"""What is wrong with the area of a shared disk."""

from __future__ import annotations

from csvd.errors import CsvdError


class AreaError(CsvdError):
    """The area of a disk can not be used, or not be made: the disk has something else on it, a newer format, or what
    is kept on it is damaged."""
