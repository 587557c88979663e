"""The asyncio face against real daemons: IPv6, CHAP in both directions, digests, discovery, logins that are sent on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

import initiator
from initiator import AuthenticationFailed, Credentials, UrlError
from initiator.deferred_await import in_task
from initiator.dial import _resolve
from initiator.loop_reactor import LoopReactor
from tests.bench.targets import IQN, Chap, Export, Target, start_csvd
from tests.integration.daemon_rig import TARGET, Daemons
from tests.integration.worker_rig import OTHER, node_with_workers, url_of, worker_of

CHAP = Chap("joe", "opensesame12345", "disk", "sesame-closes-54321")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target on 127.0.0.1 and ::1 that asks for nothing."""
    folder = tmp_path_factory.mktemp("plain")
    with start_csvd(Export((folder / "a.img",), create="16M", options=("--portal", "[::1]:0")), folder) as target:
        yield target
        assert target.stop() == 0
        assert "Traceback" not in target.log()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target on ::1 that wants CHAP and proves itself."""
    folder = tmp_path_factory.mktemp("secured")
    export = Export((folder / "a.img",), create="16M", chap=CHAP, options=("--portal", "[::1]:0"))
    with start_csvd(export, folder) as target:
        yield target
        assert target.stop() == 0


def over_ipv6(target: Target) -> str:
    (url,) = (url for url in target.urls if "[::1]" in url)
    return url


def secret_file(path: Path, secret: str) -> Path:
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_disk_over_ipv6_with_digests(plain: Target, run: Any) -> None:
    data = bytes(range(256)) * 4096 * 3

    async def main() -> None:
        async with initiator.connect(f"{over_ipv6(plain)}?header_digest=crc32c&data_digest=crc32c") as disk:
            agreed = disk.session.parameters
            assert (agreed.header_digest, agreed.data_digest) == ("CRC32C", "CRC32C")
            assert disk.session.portal.host == "::1"
            await disk.write(3, data)
            await disk.flush()
            assert await disk.read(3, len(data) // 512) == data

    run(main())


def test_a_zone_of_an_address_is_an_interface() -> None:
    async def main() -> None:
        for zone in ("%lo", "%25lo"):
            portal = initiator.parse_url(f"iscsi://[fe80::1{zone}]/{IQN}").portal
            ((family, address),) = await in_task(_resolve(portal, LoopReactor(), 10))
            assert (family, address) == (socket.AF_INET6, ("fe80::1", 3260, 0, socket.if_nametoindex("lo")))

    asyncio.run(main())


def test_discovery_tells_all_addresses_of_a_target(plain: Target) -> None:
    async def main() -> None:
        for portal in plain.portals:
            for found in (
                await initiator.discover(portal),
                await initiator.discover(f"iscsi://{portal}"),
                await initiator.discover(portal, target_name=IQN),
            ):
                assert [target.name for target in found] == [IQN]
                assert {str(address.portal) for address in found[0].addresses} == set(plain.portals)
        assert await initiator.discover(plain.portal, target_name="iqn.2026-11.test:nobody") == []

    asyncio.run(main())


def test_discovery_and_disk_by_chap_in_both_directions(secured: Target, tmp_path: Path) -> None:
    ours, theirs = (
        secret_file(tmp_path / "ours", CHAP.secret),
        secret_file(tmp_path / "theirs", CHAP.target_secret),
    )
    url = over_ipv6(secured).replace("//", "//joe@") + "?target_user=disk"

    async def main() -> None:
        (found,) = await initiator.discover(url, secret_file=ours, target_secret_file=theirs)
        assert found.name == IQN
        async with initiator.connect(url, secret_file=ours, target_secret_file=theirs) as disk:
            assert await disk.read(0, 1) == bytes(512)
        whole = (
            over_ipv6(secured).replace("//", f"//joe%{CHAP.secret}@")
            + f"?target_user=disk&target_password={CHAP.target_secret}"
        )
        for auth in ("md5", "sha-256", "sha3-256"):
            async with initiator.connect(f"{whole}&auth={auth}") as disk:
                assert await disk.read(0, 1) == bytes(512)

    asyncio.run(main())


def test_without_the_right_secrets_there_is_neither(secured: Target) -> None:
    url = over_ipv6(secured)
    wrong = Credentials("joe", b"not the secret of joe")
    ours, theirs = Credentials("joe", CHAP.secret.encode()), Credentials("disk", b"not the secret of it")

    async def main() -> None:
        with pytest.raises(AuthenticationFailed):
            await initiator.discover(url)
        with pytest.raises(AuthenticationFailed):
            await initiator.discover(url, credentials=wrong)
        with pytest.raises(AuthenticationFailed):
            await initiator.connect(url, credentials=wrong)
        with pytest.raises(AuthenticationFailed):
            await initiator.connect(url, credentials=ours, target_credentials=theirs)

    asyncio.run(main())


def test_user_and_secret_may_stand_in_the_environment(secured: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBISCSI_CHAP_USERNAME", CHAP.user)
    monkeypatch.setenv("LIBISCSI_CHAP_PASSWORD", CHAP.secret)
    monkeypatch.setenv("LIBISCSI_CHAP_TARGET_USERNAME", CHAP.target_user)
    monkeypatch.setenv("LIBISCSI_CHAP_TARGET_PASSWORD", CHAP.target_secret)

    async def main() -> None:
        async with initiator.connect(over_ipv6(secured)) as disk:
            assert await disk.read(0, 1) == bytes(512)
        monkeypatch.setenv("LIBISCSI_CHAP_TARGET_PASSWORD", "another secret")
        with pytest.raises(AuthenticationFailed):
            await initiator.connect(over_ipv6(secured))

    asyncio.run(main())


def test_a_login_is_sent_on_to_the_worker_that_serves_the_target() -> None:
    daemons = Daemons()
    try:
        node = node_with_workers(daemons)

        async def main() -> None:
            found = await initiator.discover(node.portal, target_name=OTHER)
            assert [target.name for target in found] == [OTHER]
            async with initiator.connect(url_of(node, TARGET)) as one, initiator.connect(url_of(node, OTHER)) as other:
                await asyncio.gather(one.write(0, b"1" * 512), other.write(0, b"2" * 512))
                assert (await one.read(0, 1), await other.read(0, 1)) == (b"1" * 512, b"2" * 512)
                assert node.portal not in {str(one.session.portal), str(other.session.portal)}
                assert str(one.session.portal) != str(other.session.portal)

        asyncio.run(main())
        assert worker_of(node, OTHER)["sessions"] == 0
    finally:
        daemons.close()


def test_what_is_no_url_is_told_before_anything_is_dialled() -> None:
    with pytest.raises(UrlError, match="names no target"):
        asyncio.run(initiator.connect("iscsi://192.0.2.1"))
