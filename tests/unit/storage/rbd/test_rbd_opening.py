"""What is refused of an rbd: disk before the cluster is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.storage.open import create_disk, is_there, open_disk, place_of
from tests.unit.storage.pool_doubles import InlinePool

URL = "rbd:pool/image:id=csvd"
MIB = 1 << 20


def refusal(url: str = URL, **how: Any) -> str:
    inline = InlinePool()
    with pytest.raises(ConfigError) as refused:
        inline.settle(open_disk(url, pool=inline.pool, **how))
    return str(refused.value)


def test_what_no_image_can_be_is_refused() -> None:
    assert "page cache" in refusal(direct=True)
    assert "allocated ahead" in refusal(create_bytes=MIB, full=True)
    assert "not both created and read-only" in refusal(create_bytes=MIB, read_only=True)
    assert "is not the name of an image" in refusal("rbd:image")


def test_a_secret_that_is_no_key_of_ceph_is_refused_and_not_repeated() -> None:
    told = refusal(secret=b"correct horse battery")
    assert "not the key of a Ceph user" in told
    assert "horse" not in told


def test_a_keyring_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.touch(0o644)
    keyring.chmod(0o644)
    assert "others may read" in refusal(f"{URL}:keyring={keyring}")


def test_whether_an_image_can_be_made_is_looked_at_without_a_cluster() -> None:
    create_disk(URL, MIB)
    with pytest.raises(ConfigError, match="whole number"):
        create_disk(URL, MIB + 1)
    with pytest.raises(ConfigError, match="allocated ahead"):
        create_disk(URL, MIB, full=True)
    assert not is_there(URL)
    assert place_of(URL) == place_of("rbd:pool/image:id=other")
    with pytest.raises(ConfigError, match="not the name of an image"):
        is_there("rbd:image")
