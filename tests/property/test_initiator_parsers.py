"""What the initiator parses: any text and any bytes give a value or a typed error."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from initiator.engine.discovery import parse_address, parse_targets
from initiator.errors import MalformedAnswer, ProtocolViolation, UrlError
from initiator.scsi import answers, inquiry, lun, sense
from initiator.scsi.inquiry import DeviceIdentification
from initiator.url import IscsiUrl, Portal, parse_portal, parse_url

BYTES = st.binary(max_size=300)
URL_TEXT = st.text("iscs:/[]@%.-0123456789abfqn?#é \0", max_size=60)
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.\-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses(v=6).map(str)
USERS = st.text(st.characters(exclude_characters="/%", categories=("L", "N", "P", "S")), min_size=1, max_size=30)
SECRETS = st.binary(min_size=1, max_size=255)


@given(st.text() | URL_TEXT | URL_TEXT.map(lambda tail: f"iscsi://{tail}"))
@settings(deadline=None)
def test_any_text_is_a_url_or_a_url_error(text: str) -> None:
    with suppress(UrlError):
        url = parse_url(text)
        assert parse_url(str(url)) == url
        assert "\n" not in str(url)


@given(st.text() | URL_TEXT)
@settings(deadline=None)
def test_any_text_is_a_portal_or_a_url_error(text: str) -> None:
    with suppress(UrlError):
        portal = parse_portal(text)
        assert parse_portal(str(portal)) == portal


@given(HOSTS, st.integers(1, 65535), st.integers(0, 16383), USERS, SECRETS)
@settings(deadline=None)
def test_a_url_gives_back_what_it_was_made_of(host: str, port: int, number: int, user: str, secret: bytes) -> None:
    plain = IscsiUrl(Portal(host, port), "iqn.2026-11.test:a", number, user)
    encoded = "".join(f"%{byte:02X}" for byte in secret)
    text = str(plain).replace(f"{user}@", f"{user}%{encoded}@", 1)
    url = parse_url(text)
    assert url == plain
    assert url.credentials is not None
    assert (url.credentials.user, url.credentials.secret) == (user, secret)
    assert encoded not in repr(url)


@given(BYTES)
@settings(deadline=None)
def test_any_sense_is_sense_or_none(data: bytes) -> None:
    found = sense.parse(data)
    if found is not None:
        assert str(found)
        assert 0 <= found.asc <= 255


@given(BYTES)
@settings(deadline=None)
def test_any_inquiry_data_is_parsed_or_malformed(data: bytes) -> None:
    with suppress(MalformedAnswer):
        assert inquiry.parse_standard(data).vendor.isprintable()


@given(st.sampled_from([0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2, 0xC0]), st.binary(max_size=120), st.booleans())
@settings(deadline=None)
def test_any_page_is_parsed_or_malformed(code: int, body: bytes, honest: bool) -> None:
    data = bytes((0, code)) + len(body).to_bytes(2, "big") + body if honest else body
    with suppress(MalformedAnswer):
        page = inquiry.parse_vpd(code, data)
        if isinstance(page, DeviceIdentification):
            assert all(designator.text.isprintable() for designator in page.designators)
            assert page.unit_identity.isprintable()


@given(BYTES)
@settings(deadline=None)
def test_any_capacity_list_of_luns_and_mode_data_is_parsed_or_malformed(data: bytes) -> None:
    for parse in (answers.parse_capacity_10, answers.parse_capacity_16, answers.parse_luns, answers.parse_write_cache):
        with suppress(MalformedAnswer):
            parse(data)


@given(st.integers(0, 16383))
@settings(deadline=None)
def test_every_lun_goes_to_the_wire_and_back(number: int) -> None:
    assert lun.decode(lun.encode(number)) == number


@given(
    BYTES | st.lists(st.sampled_from([b"TargetName=iqn.2026-11.a:b", b"TargetAddress=h:1,1", b"a=b"])).map(b"\0".join)
)
@settings(deadline=None)
def test_any_answer_to_send_targets_is_a_list_or_a_violation(data: bytes) -> None:
    with suppress(ProtocolViolation):
        for target in parse_targets(data):
            assert all(parse_address(str(address)) == address for address in target.addresses)
