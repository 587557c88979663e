"""Portals: how they are written, and what stands in the way of opening one."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from csvd.target.listener import Portal, PortalError, format_address, listening_socket, parse_portal
from tests.unit.target.fake_reactor import FakeReactor


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("127.0.0.1:3261", ("127.0.0.1", 3261)),
        ("127.0.0.1", ("127.0.0.1", 3260)),
        ("host.example:0", ("host.example", 0)),
        ("[::1]:3261", ("::1", 3261)),
        ("[::1]", ("::1", 3260)),
    ],
)
def test_a_portal_is_a_host_and_a_port(text: str, portal: tuple[str, int]) -> None:
    assert parse_portal(text) == portal


@pytest.mark.parametrize("text", ["::1", "[::1", "[::1]x", "host:", "host:70000", "host:-1", ":3260", "host:٣"])
def test_what_is_no_portal_is_refused(text: str) -> None:
    with pytest.raises(PortalError, match="not a portal"):
        parse_portal(text)


def test_port_0_takes_a_free_one_and_accepted_sockets_are_handed_over() -> None:
    reactor = FakeReactor()
    accepted: list[tuple[Any, str, str]] = []
    portal = Portal(reactor, listening_socket("127.0.0.1:0"), lambda *arguments: accepted.append(arguments))
    try:
        host, port = parse_portal(portal.address)
        assert port > 0
        with socket.create_connection((host, port)) as peer:
            portal.doRead()
            ((sock, peer_address, local_address),) = accepted
            assert local_address == portal.address
            assert parse_portal(peer_address)[1] == peer.getsockname()[1]
            assert not sock.getblocking()
            sock.close()
    finally:
        portal.close()


def test_an_ipv4_address_through_a_portal_of_both_families_is_written_as_ipv4() -> None:
    assert format_address(("::ffff:127.0.0.1", 3260, 0, 0)) == "127.0.0.1:3260"
    assert format_address(("::1", 3260, 0, 0)) == "[::1]:3260"


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortalError) as error:
            listening_socket(f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in str(error.value)
    assert "in use" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_address_of_another_host_is_one_clear_line() -> None:
    with pytest.raises(PortalError, match="can not listen"):
        listening_socket("192.0.2.1:0")


def test_without_file_descriptors_the_portal_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = FakeReactor()
    portal = Portal(reactor, listening_socket("127.0.0.1:0"), lambda *_: None)
    try:
        portal.startReading()

        class Exhausted:
            def accept(self) -> Any:
                raise OSError(24, "Too many open files")

            def close(self) -> None: ...

        whole = portal._socket
        monkeypatch.setattr(portal, "_socket", Exhausted())
        portal.doRead()
        assert portal not in reactor.readers
        monkeypatch.setattr(portal, "_socket", whole)
        reactor.advance(1.0)
        assert portal in reactor.readers
    finally:
        portal.close()


def test_a_connection_that_is_gone_before_it_is_taken_costs_the_portal_nothing() -> None:
    reactor = FakeReactor()

    def gone(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    portal = Portal(reactor, listening_socket("127.0.0.1:0"), gone)
    portal.startReading()
    try:
        with socket.create_connection(parse_portal(portal.address)) as sock:
            sock.settimeout(5.0)
            reactor.turn()
            assert sock.recv(1) == b""
        assert portal in reactor.readers
    finally:
        portal.close()
