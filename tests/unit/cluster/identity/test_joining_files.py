"""What a joining node stores: nothing half, and a crash at any point can be repeated with the same key."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from csvd.cluster.identity.certificate import NodeIdentity, key_pem, make_cluster
from csvd.cluster.identity.files import IDENTITY_FOLDER, has_identity, load_identity, store_identity
from csvd.cluster.identity.joining_files import is_joining, joining_key, load_first_members, store_joined
from csvd.errors import ConfigError

NOW_S = 1_800_000_000.0
FOUNDER = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]
MEMBERS = {"n1": ("h:1", (FOUNDER.fingerprint,)), "n2": ("h:2", ("ab" * 32,))}


def joined(directory: Path) -> NodeIdentity:
    key = joining_key(directory)
    certificate = FOUNDER.authority.certify("n2", key.public_key(), now_s=NOW_S)
    return NodeIdentity(FOUNDER.authority, certificate, key, FOUNDER.data_key)


def test_a_node_that_has_joined_has_its_identity_and_whom_it_knows(tmp_path: Path) -> None:
    assert not is_joining(tmp_path)
    identity = joined(tmp_path)
    assert is_joining(tmp_path)
    assert not has_identity(tmp_path)
    store_joined(tmp_path, identity, MEMBERS)
    assert not is_joining(tmp_path)
    assert load_identity(tmp_path).node == "n2"
    assert load_first_members(tmp_path) == MEMBERS
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / IDENTITY_FOLDER).iterdir()}
    assert modes == {0o600}


def test_the_key_is_the_same_at_every_try(tmp_path: Path) -> None:
    assert key_pem(joining_key(tmp_path)) == key_pem(joining_key(tmp_path))


def test_a_node_of_a_cluster_joins_no_other(tmp_path: Path) -> None:
    store_identity(tmp_path, FOUNDER)
    with pytest.raises(ConfigError, match="of a cluster already"):
        joining_key(tmp_path)
    assert load_first_members(tmp_path) == {}


class Crash(Exception):
    """The power is gone."""


@pytest.mark.parametrize("number", range(9))
def test_a_crash_at_any_point_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left = [number]
    rename = os.rename

    def crashing(*arguments: str, **options: Any) -> None:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        rename(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", crashing)
        try:
            store_joined(tmp_path, joined(tmp_path), MEMBERS)
        except Crash:
            assert not has_identity(tmp_path)
        else:
            assert number == 8  # the key; five files of the identity, and the members; the directory
    first = key_pem(joining_key(tmp_path)) if is_joining(tmp_path) else b""
    if not has_identity(tmp_path):
        identity = joined(tmp_path)
        assert first in (b"", key_pem(identity.key))
        store_joined(tmp_path, identity, MEMBERS)
    assert load_identity(tmp_path).node == "n2"


def test_first_members_that_are_damaged_are_one_clear_error(tmp_path: Path) -> None:
    store_joined(tmp_path, joined(tmp_path), MEMBERS)
    (tmp_path / IDENTITY_FOLDER / "first_members").write_bytes(b'{"n1": 1}')
    with pytest.raises(ConfigError, match=r"first_members: is damaged"):
        load_first_members(tmp_path)
