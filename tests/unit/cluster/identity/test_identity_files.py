"""The files of an identity: whole or not there, private, and right after a crash at any point of a renewal."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from csvd.cluster.identity import files
from csvd.cluster.identity.certificate import NodeIdentity, make_cluster
from csvd.cluster.identity.files import (
    IDENTITY_FOLDER,
    has_identity,
    load_data_keys,
    load_identity,
    load_renewal,
    store_data_keys,
    store_identity,
    store_renewal,
    use_renewal,
)
from csvd.errors import ConfigError

NOW_S = 1_800_000_000.0
IDENTITY = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]


def same(one: NodeIdentity, other: NodeIdentity) -> bool:
    return files.identity_files(one) == files.identity_files(other)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store_identity(tmp_path / "cluster", IDENTITY)
    return tmp_path / "cluster"


def test_an_identity_is_read_as_it_was_stored(directory: Path) -> None:
    assert has_identity(directory)
    loaded = load_identity(directory)
    assert same(loaded, IDENTITY)
    assert (loaded.cluster, loaded.node) == ("east", "n1")


def test_nobody_else_may_read_it(directory: Path) -> None:
    folder = directory / IDENTITY_FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("authority.pem", "authority.key", "node.pem", "node.key", "data.key"), 0o600)


def test_a_file_that_others_may_read_is_refused(directory: Path) -> None:
    (directory / IDENTITY_FOLDER / "node.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"node\.key: others may read .*chmod 600"):
        load_identity(directory)


def test_a_node_that_has_an_identity_gets_no_other(directory: Path) -> None:
    with pytest.raises(ConfigError, match="of a cluster already"):
        store_identity(directory, IDENTITY)


@pytest.mark.parametrize("name", ["authority.pem", "authority.key", "node.pem", "node.key", "data.key"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_a_damaged_identity_is_one_clear_error(directory: Path, name: str, damage: str) -> None:
    path = directory / IDENTITY_FOLDER / name
    path.unlink()
    if damage != "missing":
        path.touch(0o600)
        path.write_bytes(b"" if damage == "empty" else os.urandom(100))
    with pytest.raises(ConfigError, match=name):
        load_identity(directory)


def test_a_certificate_that_is_not_for_the_key_is_refused(directory: Path) -> None:
    other = IDENTITY.renewed(now_s=NOW_S)
    files.write_file(directory / IDENTITY_FOLDER / "node.key", files.identity_files(other)["node.key"])
    with pytest.raises(ConfigError, match="not for the key beside it"):
        load_identity(directory)


def test_repr_shows_no_key() -> None:
    assert "PRIVATE" not in repr(IDENTITY)
    assert IDENTITY.data_key.hex() not in repr(IDENTITY)
    assert repr(IDENTITY.data_key) not in repr(IDENTITY)


class Crash(Exception):
    """The power is gone."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    real = getattr(os, call)
    left = [number]

    def crashing(*arguments: object, **options: object) -> object:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, crashing)


@pytest.mark.parametrize("number", range(8))
def test_a_crash_while_storing_leaves_no_identity_and_storing_again_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patched:
        crash_at(patched, "rename", number)
        try:
            store_identity(tmp_path, IDENTITY)
        except Crash:
            assert not has_identity(tmp_path)
        else:
            assert number >= 6
            assert same(load_identity(tmp_path), IDENTITY)
            return
    store_identity(tmp_path, IDENTITY)
    assert same(load_identity(tmp_path), IDENTITY)


@pytest.mark.parametrize("number", range(6))
def test_a_crash_in_a_renewal_leaves_the_old_or_the_new_pair(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    renewed = IDENTITY.renewed(now_s=NOW_S + 1)
    with monkeypatch.context() as patched:
        crash_at(patched, "rename", number)
        try:
            store_renewal(directory, renewed)
            use_renewal(directory)
            assert number >= 4
        except Crash:
            assert number < 4
    found = load_identity(directory)
    # The renames: certificate.new, key.new, then key, certificate.
    assert same(found, renewed if number >= 3 else IDENTITY)
    kept = load_renewal(directory, found)
    assert (kept is not None and same(kept, renewed)) == (number == 2)


def test_a_renewal_that_is_begun_again_takes_the_place_of_the_first(directory: Path) -> None:
    first, second = IDENTITY.renewed(now_s=NOW_S), IDENTITY.renewed(now_s=NOW_S)
    store_renewal(directory, first)
    store_renewal(directory, second)
    kept = load_renewal(directory, load_identity(directory))
    assert kept is not None
    assert same(kept, second)
    use_renewal(directory)
    assert same(load_identity(directory), second)


def test_a_certificate_is_renewed_at_two_thirds_of_its_life() -> None:
    life_s = IDENTITY.certificate.not_valid_after_utc.timestamp() - NOW_S
    assert IDENTITY.renew_at_s == pytest.approx(NOW_S + life_s * 2 / 3, abs=3600)


def test_the_keys_of_secrets_are_one_file_whose_first_is_the_current_one(directory: Path) -> None:
    assert load_data_keys(directory) == [IDENTITY.data_key]
    store_data_keys(directory, [b"n" * 32, IDENTITY.data_key])
    assert load_data_keys(directory) == [b"n" * 32, IDENTITY.data_key]
    assert load_identity(directory).data_key == b"n" * 32
    path = directory / IDENTITY_FOLDER / "data.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for wrong in (b"", b"n" * 31, b"n" * 65):
        files.write_file(path, wrong)
        with pytest.raises(ConfigError, match="no whole number of 32"):
            load_data_keys(directory)
