from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import pytest

import initiator.url
from csvd.iscsi.chap import Algorithm
from initiator.errors import UrlError
from initiator.url import IscsiUrl, Portal, parse_portal, parse_portal_url, parse_url

IQN = "iqn.2026-11.test:disk"


@pytest.mark.parametrize(
    ("text", "portal", "name", "lun"),
    [
        (f"iscsi://host/{IQN}/0", Portal("host", 3260), IQN, 0),
        (f"iscsi://host:3261/{IQN}/16383", Portal("host", 3261), IQN, 16383),
        (f"iscsi://192.0.2.1/{IQN}", Portal("192.0.2.1"), IQN, 0),
        (f"iscsi://[::1]:3261/{IQN}/2", Portal("::1", 3261), IQN, 2),
        (f"iscsi://[fe80::1%eth0]/{IQN}/2", Portal("fe80::1%eth0"), IQN, 2),
        (f"iscsi://[fe80::1%25eth0]:3261/{IQN}/2", Portal("fe80::1%eth0", 3261), IQN, 2),
        (f"iscsi://[fe80::1%25]/{IQN}/2", Portal("fe80::1%25"), IQN, 2),
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
        ("joe:opensesame12345", "joe", b"opensesame12345"),
        ("joe:a%2Fb", "joe:a", b"2Fb"),
    ],
)
def test_a_url_may_hold_user_and_secret(userinfo: str, user: str, secret: bytes) -> None:
    url = parse_url(f"iscsi://{userinfo}@host:3260/{IQN}/0")
    assert url.credentials is not None
    assert (url.user, url.credentials.user, url.credentials.secret) == (user, user, secret)
    assert url.portal == Portal("host")


OPTIONS = [
    ("header_digest=crc32c", {"header_digest": "CRC32C"}),
    ("header_digest=none&data_digest=CRC32C", {"header_digest": "None", "data_digest": "CRC32C"}),
    ("auth=md5", {"algorithms": (Algorithm.MD5,)}),
    ("auth=sha-256", {"algorithms": (Algorithm.SHA256,)}),
    ("auth=sha3-256", {"algorithms": (Algorithm.SHA3_256,)}),
    ("force_usn=A%26b%20c", {"serial": "A&b c"}),
    ("initiator=IQN.2026-11.test:Me", {"initiator_name": "iqn.2026-11.test:me"}),
    ("target_user=disk", {"target_user": "disk"}),
    ("target_user=disk&target_password=a%26b", {"target_user": "disk"}),
    ("&", {}),
]


@pytest.mark.parametrize(("options", "fields"), OPTIONS)
def test_the_options_of_libiscsi_are_taken(options: str, fields: dict[str, Any]) -> None:
    url = parse_url(f"iscsi://host/{IQN}/3?{options}")
    assert url == replace(IscsiUrl(Portal("host"), IQN, 3), **fields)
    assert parse_url(str(url)) == url


def test_the_target_has_to_prove_itself_by_the_secret_of_the_url() -> None:
    url = parse_url(f"iscsi://joe%first-secret@host/{IQN}/0?target_password=a%26b&target_user=disk")
    assert url.target_credentials is not None
    assert (url.target_credentials.user, url.target_credentials.secret) == ("disk", b"a&b")
    assert "a&b" not in str(url)
    assert "a%26b" not in str(url) + repr(url)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("iscsi://host", IscsiUrl(Portal("host"), "")),
        ("iscsi://joe@[::1]:3261/", IscsiUrl(Portal("::1", 3261), "", user="joe")),
        (f"iscsi://host/{IQN}", IscsiUrl(Portal("host"), IQN)),
        ("iscsi://host?force_usn=a/b", IscsiUrl(Portal("host"), "", serial="a/b")),
        ("iscsi://host?header_digest=none", IscsiUrl(Portal("host"), "", header_digest="None")),
    ],
)
def test_the_url_of_a_portal_needs_no_target(text: str, url: IscsiUrl) -> None:
    assert parse_portal_url(text) == url
    assert parse_portal_url(str(url)) == url


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
        f"iscsi://host/{IQN}/0?header_digest=md5",
        f"iscsi://host/{IQN}/0?header_digest",
        f"iscsi://host/{IQN}/0?data_digest=",
        f"iscsi://host/{IQN}/0?data_digest=none&data_digest=crc32c",
        f"iscsi://host/{IQN}/0?auth=sha1",
        f"iscsi://host/{IQN}/0?target_password=opensesame12345",
        f"iscsi://host/{IQN}/0?target_user=%ff",
        f"iscsi://host/{IQN}/0?target_user=a&target_password={'s' * 256}",
        f"iscsi://host/{IQN}/0?force_usn=%0a",
        f"iscsi://host/{IQN}/0?initiator=me",
        f"iscsi://host/{IQN}/0?iser",
        f"iscsi://host/{IQN}/0?lun=1",
        f"iser://host/{IQN}/0",
        f"iscsi://host/{IQN}/0#1",
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
        f"iscsi://joe%open/sesame12345@host/{IQN}/0",
        f"iscsi://joe:opensesame12345@host/{IQN}/x",
        f"iscsi://host/{IQN}/0?target_password=opensesame12345",
        f"iscsi://host/{IQN}/0?target_pasword=opensesame12345&target_user=joe",
        f"iscsi://host/{IQN}/0?target_user=joe&target_password=opensesame12345&target_password=sesame",
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
