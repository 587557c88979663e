"""The buffers that WRITE BUFFER fills and READ BUFFER reads: one of data, and an echo buffer for each I_T nexus."""

from __future__ import annotations

from typing import Final

BUFFER_BYTES: Final = 4096
MOST_ECHO_BUFFERS: Final = 64
"""Echo buffers of one logical unit. When there are more, the oldest goes: no set of sessions costs more memory."""


class DeviceBuffers:
    """The buffers of one logical unit; they cost nothing before they are used."""

    __slots__ = ("_data", "_echo")

    def __init__(self) -> None:
        self._data: bytearray | None = None
        self._echo: dict[str, bytes] = {}

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write to the data buffer, within its bounds."""
        assert offset_bytes + len(data) <= BUFFER_BYTES
        if self._data is None:
            self._data = bytearray(BUFFER_BYTES)
        self._data[offset_bytes : offset_bytes + len(data)] = data

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Read the data buffer; what was never written is zeros."""
        return bytes(memoryview(self._data or bytes(BUFFER_BYTES))[offset_bytes : offset_bytes + length_bytes])

    def write_echo(self, nexus: str, data: bytes) -> None:
        """Fill the echo buffer of an I_T nexus."""
        self._echo.pop(nexus, None)
        self._echo[nexus] = data
        if len(self._echo) > MOST_ECHO_BUFFERS:
            del self._echo[next(iter(self._echo))]

    def read_echo(self, nexus: str) -> bytes | None:
        """The echo buffer of an I_T nexus; None where there is none, or none any more."""
        return self._echo.get(nexus)

    def drop_echo(self, nexus: str) -> None:
        """The I_T nexus is lost."""
        self._echo.pop(nexus, None)

    def reset(self) -> None:
        """A reset of the logical unit."""
        self._data = None
        self._echo.clear()
