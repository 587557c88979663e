"""PURE. The iSCSI initiator of RFC 7143: bytes in, commands in, bytes out, events out. It knows no socket and no clock.

- ``framing``: the byte stream into PDUs; Data-In goes straight to the buffer of its command.
- ``negotiation``, ``login``: the login phase.
- ``requests``: what an initiator asks: commands, pings, task management, text, logout.
- ``session``: what the connections of a session share: CmdSN window and task tags.
- ``connection``: one connection: it ties the others together.
- ``discovery``: the answer to SendTargets.
"""
