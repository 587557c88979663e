"""Join tokens: whole or refused, never shown, and known by a key that only their text gives."""

from __future__ import annotations

import pytest

from csvd.cluster.identity.token import MAXIMUM_TOKEN_BYTES, JoinToken, is_token_text
from csvd.errors import ConfigError

TOKEN = JoinToken.make(
    cluster="east", addresses=[("10.0.0.1", 7001), ("fd00::2", 7001)], authority="ab" * 32, expires_at_s=1_800_003_600
)


def test_a_token_is_read_as_it_was_made() -> None:
    again = JoinToken.parse(f"  {TOKEN.text()}\n")
    assert again == TOKEN
    assert again.id == TOKEN.id
    assert again.key.private_bytes_raw() == TOKEN.key.private_bytes_raw()


def test_two_tokens_have_nothing_in_common() -> None:
    other = JoinToken.make(
        cluster="east", addresses=list(TOKEN.addresses), authority=TOKEN.authority, expires_at_s=TOKEN.expires_at_s
    )
    assert other.id != TOKEN.id
    assert other.seed != TOKEN.seed


def test_a_text_is_one_line_that_fits() -> None:
    long = JoinToken.make(
        cluster="e" * 64, addresses=[("h" * 60, 65535)] * 40, authority="ab" * 32, expires_at_s=2**40, is_witness=True
    )
    assert len(long.text()) < MAXIMUM_TOKEN_BYTES
    assert JoinToken.parse(long.text()).is_witness
    assert TOKEN.text().split() == [TOKEN.text()]
    assert is_token_text(TOKEN.text())


def test_repr_and_errors_do_not_show_it() -> None:
    assert TOKEN.seed.hex() not in repr(TOKEN)
    assert repr(TOKEN.seed) not in repr(TOKEN)
    cut = TOKEN.text()[:-5]
    with pytest.raises(ConfigError) as refused:
        JoinToken.parse(cut)
    assert cut[6:] not in str(refused.value)


@pytest.mark.parametrize("position", [6, 7, 30, 80, -1])
def test_a_token_with_one_letter_changed_is_refused(position: int) -> None:
    text = list(TOKEN.text())
    text[position] = "A" if text[position] != "A" else "B"
    with pytest.raises(ConfigError, match="not whole"):
        JoinToken.parse("".join(text))


@pytest.mark.parametrize("text", ["", "hello", "csvd1", "csvd2.AAAA", "csvd1." + "A" * 5000])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a join token"):
        JoinToken.parse(text)


def test_a_whole_text_of_other_fields_is_refused() -> None:
    import base64
    import hashlib

    for body in (b"", b"\xc1", b"\x91\x01", b"\x91" * 3000):
        data = body + hashlib.sha256(body).digest()[:8]
        text = "csvd1." + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        with pytest.raises(ConfigError, match="join token"):
            JoinToken.parse(text)
