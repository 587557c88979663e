"""What the connections of a session share (RFC 7143 sections 4.2.2 and 4.4): the CmdSN window and the task tags.

A command belongs to the connection that it was handed to: its data, R2Ts and status go and come there alone (section
4.2.5.1). Its CmdSN is given when the transport of that connection takes it, so a connection that is slow to send never
leaves a hole in the numbers that the others would wait behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import RESERVED_TAG
from csvd.iscsi.keys import SessionParameters
from initiator.errors import ProtocolViolation

if TYPE_CHECKING:
    from initiator.engine.connection import InitiatorConnection

SERIAL_MASK: Final = 0xFFFFFFFF
_SERIAL_HALF: Final = 1 << 31


class SessionState:
    """The state of one session. It makes no decisions on time and holds no socket."""

    def __init__(self, isid: bytes, *, first_cmd_sn: int = 1) -> None:
        self.isid = isid
        """The initiator session ID, 6 bytes (RFC 7143 section 11.12.5)."""
        self.tsih = 0
        """The target's handle of the session; 0 before the login is done."""
        self.portal_group_tag: int | None = None
        self.target_alias = ""
        self.parameters = SessionParameters()
        """The outcome of negotiation; what the peer takes in one PDU stands in it too."""
        self.cmd_sn = first_cmd_sn
        self.exp_cmd_sn = first_cmd_sn
        self.max_cmd_sn = (first_cmd_sn - 1) & SERIAL_MASK
        self.connections: list[InitiatorConnection] = []
        """Those that are logged in or about to be."""
        self.functions = 0
        """Task management functions under way before whose answer no command goes out. A command with a later CmdSN on
        another connection could reach the target before the function does, and targets end it with the others."""
        self._next_tag = 1
        self._tags_repeat = False

    def new_tag(self) -> int:
        """Give a task tag that no outstanding request has, on any connection."""
        while True:
            tag = self._next_tag
            self._next_tag = (tag + 1) & SERIAL_MASK
            if tag == RESERVED_TAG:
                self._tags_repeat = True
            elif not (self._tags_repeat and any(tag in connection.outstanding for connection in self.connections)):
                return tag

    def window_open(self) -> bool:
        """Whether one more command may go out (RFC 7143 section 4.2.2.1)."""
        return not self.functions and (self.max_cmd_sn - self.cmd_sn) & SERIAL_MASK < _SERIAL_HALF

    def window_moved(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """Take ExpCmdSN and MaxCmdSN of a PDU; neither ever moves back.

        Raises:
            ProtocolViolation: it acknowledges commands that were never sent.
        """
        if (max_cmd_sn - exp_cmd_sn + 1) & SERIAL_MASK >= _SERIAL_HALF:
            return  # RFC 7143 section 4.2.2.1: MaxCmdSN below ExpCmdSN-1, both are ignored
        if (self.cmd_sn - exp_cmd_sn) & SERIAL_MASK >= _SERIAL_HALF:
            raise ProtocolViolation(f"the target expects CmdSN {exp_cmd_sn:#x}, and {self.cmd_sn:#x} is the next")
        if (exp_cmd_sn - self.exp_cmd_sn) & SERIAL_MASK < _SERIAL_HALF:
            self.exp_cmd_sn = exp_cmd_sn
        if (max_cmd_sn - self.max_cmd_sn) & SERIAL_MASK < _SERIAL_HALF:
            self.max_cmd_sn = max_cmd_sn
