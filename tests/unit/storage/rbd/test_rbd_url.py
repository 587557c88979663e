from __future__ import annotations

from pathlib import Path

import pytest

from csvd.errors import ConfigError
from csvd.storage.rbd.url import check_keyring, parse_rbd_url


def test_a_pool_and_an_image_are_enough() -> None:
    name = parse_rbd_url("rbd:pool/image")
    assert (name.pool, name.namespace, name.image) == ("pool", "", "image")
    assert (name.user, name.conf, name.keyring, name.settings) == ("admin", "", "", {})


def test_a_namespace_is_between_them() -> None:
    name = parse_rbd_url("rbd:pool/team/image")
    assert (name.pool, name.namespace, name.image) == ("pool", "team", "image")


def test_options_follow_as_qemu_writes_them() -> None:
    url = r"rbd:p/i:id=csvd:conf=/etc/ceph/other.conf:mon_host=10.0.0.1\:3300"
    name = parse_rbd_url(url)
    assert (name.user, name.conf) == ("csvd", "/etc/ceph/other.conf")
    assert name.settings == {"mon_host": "10.0.0.1:3300"}


def test_a_backslash_takes_the_meaning_from_what_follows() -> None:
    name = parse_rbd_url(r"rbd:p/a\/b\:c\@d\\:conf=/a\=b")
    assert (name.pool, name.image, name.conf) == ("p", r"a/b:c@d" + "\\", "/a=b")


@pytest.mark.parametrize(
    "url",
    [
        "rbd:",
        "rbd:image",
        "rbd:pool/",
        "rbd:/image",
        "rbd:a/b/c/d",
        "rbd:pool/image:",
        "rbd:pool/image:id",
        "rbd:pool/image:id=",
        "rbd:pool/image:=x",
        "rbd:pool/image:id=a:id=b",
        "rbd:pool/image:rbd_cache=true",
        "rbd:pool/image:conf=/a\n[global]",
        "rbd:pool/im\0age",
    ],
)
def test_anything_else_is_one_clear_error(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_rbd_url(url)
    assert "pool/im" in str(wrong.value) or "rbd:" in str(wrong.value)


def test_a_snapshot_is_refused_as_such() -> None:
    with pytest.raises(ConfigError, match="snapshot"):
        parse_rbd_url("rbd:pool/image@yesterday")


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_rbd_url("rbd:pool/image:id=csvd:key=AQBleaked==")
    assert "AQBleaked" not in str(wrong.value)
    assert "keyring" in str(wrong.value)


def test_names_of_one_image_have_one_place_whatever_the_user() -> None:
    place = parse_rbd_url("rbd:pool/image:id=a").place
    assert parse_rbd_url("rbd:pool/image:id=b:keyring=/k").place == place
    assert parse_rbd_url("rbd:pool/x/image").place != place
    assert parse_rbd_url("rbd:pool/image:conf=/other.conf").place != place


def test_a_keyring_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.a]\n\tkey = x\n")
    keyring.chmod(0o640)
    name = parse_rbd_url(f"rbd:pool/image:keyring={keyring}")
    with pytest.raises(ConfigError, match="others may read"):
        check_keyring(name)
    keyring.chmod(0o600)
    check_keyring(name)


def test_a_keyring_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not read"):
        check_keyring(parse_rbd_url(f"rbd:pool/image:keyring={tmp_path}/none"))
    with pytest.raises(ConfigError, match="not a file"):
        check_keyring(parse_rbd_url(f"rbd:pool/image:keyring={tmp_path}"))
