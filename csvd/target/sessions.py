"""A session as the control API shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csvd.iscsi.session import Session
from csvd.target.statistics import totals_of

if TYPE_CHECKING:
    from csvd.target.connection import ServerConnection


def session_face(session: Session, connections: Sequence[ServerConnection], now_s: float) -> dict[str, Any]:
    """What is known of a session.

    Args:
        connections: those of it that are open.
        now_s: the time of the reactor.
    """
    totals = totals_of(connection.counter.row for connection in connections)
    for connection in connections:
        totals.errors.update(connection.counter.errors)
    return {
        "target": session.target.name if session.target is not None else None,
        "initiator": session.initiator_name,
        "isid": session.isid.hex(),
        "tsih": session.tsih,
        "peers": [connection.engine.peer for connection in connections],
        "cids": sorted(session.connections),
        "age_s": max((now_s - connection.accepted_s for connection in connections), default=0.0),
        "tasks": len(session.tasks),
        "parameters": asdict(session.parameters),
        "statistics": totals.to_json(),
    }
