"""A target that ends just when a connection to it has been made."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

import initiator
from initiator import ConnectFailed, Portal
from tests.own_reactor import run


def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_a_connection_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[socket.socket] = []

    async def dial(portal: Portal, **_how: Any) -> socket.socket:
        near = socket.create_connection((portal.host, portal.port))
        far, _ = server.accept()
        # Closed without lingering it is reset, and has no peer any more.
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        made.append(near)
        return near

    monkeypatch.setattr("initiator.client.dial", dial)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"iscsi://127.0.0.1:{server.getsockname()[1]}/iqn.2026-11.org.csvd:none/0"

        async def work(reactor: Any) -> None:
            await initiator.connect(url, reactor=reactor)

        with pytest.raises(ConnectFailed, match="the connection broke at once"):
            run(work, time_limit_s=30)
    assert [sock.fileno() for sock in made] == [-1]
