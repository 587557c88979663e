from __future__ import annotations

import doctest

import pytest

import initiator.url
from initiator.errors import UrlError
from initiator.url import IscsiUrl, Portal, parse_portal, parse_url

IQN = "iqn.2026-11.test:disk"


@pytest.mark.parametrize(
    ("text", "portal", "name", "lun"),
    [
        (f"iscsi://host/{IQN}/0", Portal("host", 3260), IQN, 0),
        (f"iscsi://host:3261/{IQN}/16383", Portal("host", 3261), IQN, 16383),
        (f"iscsi://192.0.2.1/{IQN}", Portal("192.0.2.1"), IQN, 0),
        (f"iscsi://[::1]:3261/{IQN}/2", Portal("::1", 3261), IQN, 2),
        (f"iscsi://[fe80::1%eth0]/{IQN}/2", Portal("fe80::1%eth0"), IQN, 2),
        ("ISCSI://host/IQN.2026-11.Test:Disk/1", Portal("host"), IQN, 1),
        ("iscsi://host/iqn.2026-11.test%3Adisk/1", Portal("host"), IQN, 1),
        ("iscsi://host/iqn.2026-11.test:pool/disk/1", Portal("host"), "iqn.2026-11.test:pool/disk", 1),
        ("iscsi://host/eui.0123456789abcdef/1", Portal("host"), "eui.0123456789abcdef", 1),
    ],
)
def test_a_url_names_portal_target_and_lun(text: str, portal: Portal, name: str, lun: int) -> None:
    url = parse_url(text)
    assert (url.portal, url.target_name, url.lun) == (portal, name, lun)
    assert url.user == ""
    assert url.credentials is None
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    ("userinfo", "user", "secret"),
    [
        ("joe%opensesame12345", "joe", b"opensesame12345"),
        ("joe%a%2Fb%25c%40d", "joe", b"a/b%c@d"),
        ("joe@example.org%secret", "joe@example.org", b"secret"),
        ("iqn.2026-11.test:user%p:w", "iqn.2026-11.test:user", b"p:w"),
        ("joe%100%", "joe", b"100%"),
    ],
)
def test_a_url_may_hold_user_and_secret(userinfo: str, user: str, secret: bytes) -> None:
    url = parse_url(f"iscsi://{userinfo}@host:3260/{IQN}/0")
    assert url.credentials is not None
    assert (url.user, url.credentials.user, url.credentials.secret) == (user, user, secret)
    assert url.portal == Portal("host")


def test_a_user_without_a_secret_stands_alone() -> None:
    url = parse_url(f"iscsi://joe@host/{IQN}/0")
    assert (url.user, url.credentials) == ("joe", None)


def test_a_secret_stands_in_no_string() -> None:
    url = parse_url(f"iscsi://joe%opensesame12345@host/{IQN}/0")
    for shown in (str(url), repr(url), f"{url}", repr(url.credentials)):
        assert "sesame" not in shown
        assert "joe" in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host/iqn",
        f"http://host/{IQN}/0",
        "iscsi://host",
        "iscsi://host/",
        f"iscsi:///{IQN}/0",
        f"iscsi://host:/{IQN}/0",
        f"iscsi://host:0/{IQN}/0",
        f"iscsi://host:65536/{IQN}/0",
        f"iscsi://host:٣٢٦٠/{IQN}/0",
        f"iscsi://ho st/{IQN}/0",
        f"iscsi://[::1/{IQN}/0",
        f"iscsi://[::1]3260/{IQN}/0",
        f"iscsi://[host]/{IQN}/0",
        f"iscsi://host/{IQN}/x",
        f"iscsi://host/{IQN}/-1",
        f"iscsi://host/{IQN}/16384",
        f"iscsi://host/{IQN}/99999999999999999999",
        f"iscsi://host/{IQN}/0?header_digest=crc32c",
        "iscsi://host/disk/0",
        "iscsi://host/%ff/0",
        f"iscsi://@host/{IQN}/0",
        f"iscsi://%secret@host/{IQN}/0",
        f"iscsi://joe%@host/{IQN}/0",
        f"iscsi://joe%{'s' * 256}@host/{IQN}/0",
        f"iscsi://joe\n%secret@host/{IQN}/0",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(UrlError):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "iscsi://joe%opensesame12345@host/disk/0",
        f"iscsi://joe%opensesame12345@ho st/{IQN}/0",
        f"iscsi://joe%opensesame12345@host:x/{IQN}/0",
        f"iscsi://joe%opensesame12345@host/{IQN}/0?x",
        "scsi://joe%opensesame12345@host/disk/0",
    ],
)
def test_the_error_of_a_bad_url_does_not_repeat_the_secret(text: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(text)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("host", Portal("host")),
        ("host:1", Portal("host", 1)),
        ("::1", Portal("::1")),
        ("[::1]", Portal("::1")),
        ("[2001:db8::7]:3261", Portal("2001:db8::7", 3261)),
    ],
)
def test_a_portal_is_host_and_port(text: str, portal: Portal) -> None:
    assert parse_portal(text) == portal
    assert parse_portal(str(portal)) == portal


def test_an_ipv6_portal_is_shown_in_brackets() -> None:
    assert str(Portal("::1", 3260)) == "[::1]:3260"
    assert str(IscsiUrl(Portal("::1"), IQN, 4, "joe")) == f"iscsi://joe@[::1]:3260/{IQN}/4"


def test_the_examples_of_the_documentation_are_true() -> None:
    assert doctest.testmod(initiator.url).failed == 0
    assert doctest.testmod(initiator.url).attempted > 2
