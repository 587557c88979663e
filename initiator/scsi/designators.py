"""Designation descriptors: the names of logical units, ports and devices (SPC-4 section 7.8.6)."""

from __future__ import annotations

from dataclasses import dataclass

from initiator.errors import MalformedAnswer


@dataclass(frozen=True, slots=True)
class Designator:
    """One designation descriptor."""

    kind: int
    """Designator type: 1 T10 vendor ID, 2 EUI-64, 3 NAA, 4 relative target port, 5 port group, 8 SCSI name string."""
    association: int
    """0 the logical unit, 1 the target port, 2 the target device."""
    code_set: int
    value: bytes

    @property
    def text(self) -> str:
        """The form that people compare: ``naa.…`` and ``eui.…`` in hex, names as they are, numbers in decimal."""
        match self.kind:
            case 2:
                return f"eui.{self.value.hex()}"
            case 3:
                return f"naa.{self.value.hex()}"
            case 4 | 5 | 6 if len(self.value) == 4:
                return str(int.from_bytes(self.value[2:], "big"))
            case _ if self.code_set in (2, 3):
                return printable(self.value)
            case _:
                return self.value.hex()


def parse_list(body: bytes) -> tuple[Designator, ...]:
    """Parse designation descriptors that follow one another.

    Raises:
        MalformedAnswer: one runs past the end.
    """
    found: list[Designator] = []
    at = 0
    while at < len(body):
        end = at + 4 + (body[at + 3] if at + 4 <= len(body) else 0)
        if at + 4 > len(body) or end > len(body):
            raise MalformedAnswer("a designator runs past the end of its page")
        found.append(Designator(body[at + 1] & 0xF, body[at + 1] >> 4 & 3, body[at] & 0xF, body[at + 4 : end]))
        at = end
    return tuple(found)


def printable(data: bytes) -> str:
    """Decode ASCII or UTF-8 that a target pads as it likes; what is not printable becomes ``?``."""
    text = bytes(data).split(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)
