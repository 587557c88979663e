"""What the cluster exports, as it is kept: what may be changed, and how it is checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest

from csvd.api.errors import BadRequest, NotFound, Refused
from csvd.cluster.data_keys import DataKeys
from csvd.errors import ConfigError, CsvdError
from csvd.exports import catalogue as kept
from csvd.exports.catalogue import (
    AddAcl,
    AddLun,
    AnyEdit,
    CreateTarget,
    RemoveAcl,
    RemoveLun,
    RemoveTarget,
    SetAcl,
    SetLun,
    SetTarget,
    TargetRecord,
    check_bounds,
    edited,
)
from csvd.exports.cluster_sections import sealed_keys, section_of
from csvd.exports.sealing import SealBroken, Sealing
from csvd.scsi.logical_unit import naa_of

ONE = "iqn.2026-11.org.example:one"
TWO = "iqn.2026-11.org.example:two"
HOST = "iqn.2026-11.org.example:host"
SECRETS = {"/in": b"a secret of sixteen", "/out": b"another one of them"}
SEALING = Sealing(DataKeys([bytes(32)]), os.urandom)


class Kept:
    """A catalogue that is changed edit by edit, each checked as the coordinator does."""

    def __init__(self, *edits: AnyEdit) -> None:
        self.targets: dict[str, TargetRecord] = {}
        self.serials = count(1)
        self(*edits)

    def __call__(self, *edits: AnyEdit) -> TargetRecord:
        record: TargetRecord | None = None
        for edit in edits:
            name, record, _ = edited(self.targets, edit, lambda: f"serial-{next(self.serials)}")
            targets = {**self.targets}
            if record is None:
                del targets[name]
            else:
                section_of(name, record, SEALING)
                targets[name] = record
            check_bounds(targets)
            self.targets = targets
        return record or TargetRecord()


def read(path: Any) -> bytes:
    return SECRETS[str(path)]


def a_lun(**keys: Any) -> AddLun:
    return AddLun(ONE, {"disk": "/srv/a.img"} | keys)


def test_a_logical_unit_gets_its_identity_once_and_keeps_it() -> None:
    one = Kept(CreateTarget(ONE))
    (lun,) = one(a_lun()).luns.values()
    assert (lun.serial, lun.naa) == ("serial-1", naa_of("serial-1").hex())
    (same,) = one(SetLun(ONE, number=0, keys={"disk": "/dev/disk/by-id/elsewhere", "read_only": True})).luns.values()
    assert (same.serial, same.naa) == (lun.serial, lun.naa)
    (named,) = one(SetLun(ONE, number=0, keys={"serial": "mine"})).luns.values()
    assert (named.serial, named.naa) == ("mine", naa_of("mine").hex())
    (again,) = one(SetLun(ONE, number=0, keys={"serial": None})).luns.values()
    assert (again.serial, again.naa) == ("mine", naa_of("mine").hex())
    section, _ = section_of(ONE, one.targets[ONE], SEALING)
    assert (section.lun[0].serial, section.lun[0].naa) == ("mine", naa_of("mine"))


def test_files_and_devices_are_opened_past_the_page_cache_and_what_has_none_as_it_is() -> None:
    one = Kept(CreateTarget(ONE))
    for disk in ("/srv/a.img", "file:///srv/b.img", "/dev/sdb", "iscsi://192.0.2.9/iqn.2026-11.org:x/0", "rbd:p/i"):
        one(AddLun(ONE, {"disk": disk}))
    one.targets[ONE].luns["0"].keys["direct"] = False  # as an older csvd may have kept it
    section, _ = section_of(ONE, one.targets[ONE], SEALING)
    assert [lun.direct for lun in section.lun] == [True, True, True, False, False]


def test_one_disk_is_one_logical_unit_whichever_targets_export_it() -> None:
    one = Kept(CreateTarget(ONE), CreateTarget(TWO), a_lun())
    record = one(AddLun(TWO, {"disk": "/srv/a.img"}, 7))
    assert record.luns["7"].naa == one.targets[ONE].luns["0"].naa


def test_two_disks_are_never_one_to_initiators() -> None:
    one = Kept(CreateTarget(ONE), a_lun(serial="mine"))
    with pytest.raises(Refused, match="NAA designator of another disk"):
        one(a_lun(disk="/srv/b.img", serial="mine"))
    with pytest.raises(Refused, match="NAA designator of another disk"):
        one(a_lun(disk="/srv/b.img", naa=naa_of("mine").hex().upper()))


def test_luns_take_the_lowest_free_number_or_the_one_that_is_asked_for() -> None:
    one = Kept(CreateTarget(ONE), a_lun(), AddLun(ONE, {"disk": "/srv/b.img"}, 3), AddLun(ONE, {"disk": "/srv/c.img"}))
    assert sorted(one.targets[ONE].luns) == ["0", "1", "3"]
    with pytest.raises(Refused, match="LUN 3 is taken"):
        one(AddLun(ONE, {"disk": "/srv/d.img"}, 3))
    one(RemoveLun(ONE, number=1))
    with pytest.raises(NotFound, match="no LUN 1"):
        one(RemoveLun(ONE, number=1))


def test_the_last_entry_of_an_access_list_leaves_nobody() -> None:
    one = Kept(CreateTarget(ONE), AddAcl(ONE, initiator=HOST.upper(), keys={"luns": [0]}))
    assert one.targets[ONE].acl == {HOST: {"luns": [0]}}
    assert one(SetAcl(ONE, initiator=HOST, keys={"luns": None, "networks": ["10.0.0.0/8"]})).acl == {
        HOST: {"networks": ["10.0.0.0/8"]}
    }
    with pytest.raises(Refused, match="already"):
        one(AddAcl(ONE, initiator=HOST))
    record = one(RemoveAcl(ONE, initiator=HOST))
    assert (record.acl, record.keys) == ({}, {"initiators": []})
    with pytest.raises(NotFound):
        one(RemoveAcl(ONE, initiator=HOST))
    with pytest.raises(NotFound):
        one(SetAcl(ONE, initiator=HOST))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (SetTarget(ONE, {"portals": ["0.0.0.0:3260"]}), "portals is each node's own"),
        (SetTarget(ONE, {"redirect": {"address": "192.0.2.1:3260"}}), "redirect is each node's own"),
        (SetTarget(ONE, {"name": TWO}), "keeps its name"),
        (SetTarget(ONE, {"lun": []}), "has no lun"),
        (SetTarget(ONE, {"queue_depth": 0}), "queue_depth"),
        (SetTarget(ONE, {"chap": {"user": "joe"}}), "secret_file"),
        (SetTarget(ONE, {"chap": {"user": "joe", "secret_file": "/etc/shadow"}}), "is a file of one node"),
        (a_lun(create="1G"), "create can not be given"),
        (a_lun(disk="a.img"), "path from the root"),
        (a_lun(disk=7), "disk"),
        (a_lun(block_bytes=1000), "block_bytes"),
        (a_lun(serial=""), "serial"),
        (a_lun(serial="x" * 65), "serial"),
        (a_lun(naa="5" * 31), "naa"),
        (a_lun(disk_secret_file="/etc/shadow"), "disk_secret_file can not be given"),
        (a_lun(disk_initiator_name=HOST), "disk_initiator_name can not be given"),
        (a_lun(frob=1), "frob"),
        (a_lun(direct=False), "never served through the page cache"),
        (AddLun(ONE, {"disk": "/srv/b.img"}, -1), "number"),
        (AddLun(ONE, {"disk": "/srv/b.img"}, 16384), "number"),
        (AddLun(ONE), "disk"),
        (AddAcl(ONE, initiator=HOST, keys={"networks": ["10.0.0.1/8"]}), "networks"),
        (AddAcl(ONE, initiator="host"), "not an iSCSI name"),
        (CreateTarget("disk"), "not an iSCSI name"),
    ],
)
def test_what_is_wrong_is_refused_with_the_words_of_the_configuration(edit: AnyEdit, says: str) -> None:
    one = Kept(CreateTarget(ONE))
    before = msgspec.json.encode(one.targets)
    with pytest.raises((BadRequest, ConfigError)) as caught:
        one(edit)
    assert says in str(caught.value)
    assert msgspec.json.encode(one.targets) == before


def test_a_target_is_there_once_and_gone_when_it_is_removed() -> None:
    one = Kept(CreateTarget(ONE.upper(), {"alias": "x", "queue_depth": None}))
    assert one.targets == {ONE: TargetRecord(keys={"alias": "x"})}
    with pytest.raises(Refused, match="already"):
        one(CreateTarget(ONE))
    one(RemoveTarget(ONE))
    assert one.targets == {}
    with pytest.raises(NotFound, match="no such target"):
        one(SetTarget(ONE, {"alias": "y"}))


# Secrets


def chap(**keys: str) -> dict[str, Any]:
    found = {"user": "joe", "secret_file": "/in", "mutual_user": "disk", "mutual_secret_file": "/out"} | keys
    return sealed_keys({"chap": found}, ONE, SEALING, read)


def test_secrets_are_sealed_in_the_record_and_open_at_the_nodes() -> None:
    one = Kept(CreateTarget(ONE, chap()))
    one(AddAcl(ONE, initiator=HOST, keys=sealed_keys(chap_of("/in"), ONE, SEALING, read, HOST)))
    one(AddLun(ONE, sealed_keys({"disk": "iscsi://u@host/t/0", "disk_secret_file": "/in"}, ONE, SEALING, read)))
    kept_text = msgspec.json.encode(one.targets)
    assert not any(secret in kept_text for secret in SECRETS.values())
    section, secrets = section_of(ONE, one.targets[ONE], SEALING)
    assert section.chap is not None
    assert secrets[str(section.chap.secret_file)] == SECRETS["/in"]
    assert secrets[str(section.chap.mutual_secret_file)] == SECRETS["/out"]
    assert section.acl[0].chap is not None
    assert secrets[str(section.acl[0].chap.secret_file)] == SECRETS["/in"]
    assert secrets[str(section.lun[0].disk_secret_file)] == SECRETS["/in"]


def chap_of(path: str) -> dict[str, Any]:
    return {"chap": {"user": "host", "secret_file": path}}


def test_without_the_key_nothing_is_known_of_a_secret() -> None:
    one = Kept(CreateTarget(ONE, chap()))
    with pytest.raises(SealBroken):
        section_of(ONE, one.targets[ONE], Sealing(DataKeys([b"another key of thirty-two bytes."]), os.urandom))


def test_a_secret_that_is_moved_to_another_target_or_initiator_does_not_open() -> None:
    one = Kept(CreateTarget(ONE, chap()), CreateTarget(TWO))
    with pytest.raises(SealBroken):
        one(SetTarget(TWO, one.targets[ONE].keys))
    with pytest.raises(SealBroken):
        one(AddAcl(ONE, initiator=HOST, keys=one.targets[ONE].keys))


def test_secrets_are_held_to_the_rules_of_the_configuration() -> None:
    one = Kept(CreateTarget(ONE))
    with pytest.raises(BadRequest, match="the same secret"):
        one(SetTarget(ONE, chap(mutual_secret_file="/in")))
    SECRETS["/short"] = b"short"
    with pytest.raises(BadRequest, match="5 bytes"):
        one(SetTarget(ONE, chap(secret_file="/short")))
    one(SetTarget(ONE, chap()))
    with pytest.raises(BadRequest, match="proves itself"):
        one(AddAcl(ONE, initiator=HOST, keys=sealed_keys(chap_of("/out"), ONE, SEALING, read, HOST)))


def test_a_secret_that_is_given_anew_is_seen_as_a_change() -> None:
    one = Kept(CreateTarget(ONE, chap()))
    before, _ = section_of(ONE, one.targets[ONE], SEALING)
    one(SetTarget(ONE, chap()))
    after, _ = section_of(ONE, one.targets[ONE], SEALING)
    assert before != after


# Bounds


def test_there_are_bounds_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(one: Kept, *edits: AnyEdit) -> str:
        with pytest.raises(CsvdError) as caught:
            one(*edits)
        return str(caught.value)

    monkeypatch.setattr(kept, "MAX_TARGETS", 1)
    monkeypatch.setattr(kept, "MAX_LUNS", 1)
    monkeypatch.setattr(kept, "MAX_ACL", 1)
    one = Kept(CreateTarget(ONE), a_lun(), AddAcl(ONE, initiator=HOST))
    assert "1 targets already" in refused(one, CreateTarget(TWO))
    assert "at most 1 logical units" in refused(one, a_lun(disk="/srv/b.img"))
    assert "at most 1 entries" in refused(one, AddAcl(ONE, initiator=f"{HOST}2"))
    monkeypatch.setattr(kept, "MAX_TARGET_BYTES", 300)
    names: Callable[[], list[str]] = lambda: [f"{HOST}{each}" for each in range(10)]  # noqa: E731
    assert "takes at most 300 bytes" in refused(one, SetTarget(ONE, {"initiators": names()}))
    monkeypatch.setattr(kept, "MAX_TARGET_BYTES", 4000)
    monkeypatch.setattr(kept, "MAX_BYTES", 300)
    assert "more than 300" in refused(one, SetTarget(ONE, {"initiators": names()}))
