"""Waiting for a descriptor, whatever its number: select(2) takes none from 1024 on."""

from __future__ import annotations

import select


def wait_readable(descriptor: int, timeout_s: float) -> bool:
    """Whether there is something to read, or an end, within the time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))
