"""PURE. The iSCSI protocol of RFC 7143: layouts, framing, login, the session and its task set.

Bytes, time and answers come in as arguments; bytes and tasks go out. Nothing here knows a socket, a clock or a disk.
"""
