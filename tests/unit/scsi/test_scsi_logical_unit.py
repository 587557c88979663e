from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.scsi.command import CommandTable
from csvd.scsi.commands.synchronize_cache import COMMANDS as SYNCHRONIZE
from csvd.scsi.logical_unit import Identity
from csvd.scsi.provisioning import Provisioning, provisioning
from csvd.scsi.sense import Asc, CheckCondition, FieldPointer, SenseKey
from tests.unit.scsi.application_client import a_unit


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"number": 16384}, "0 to 16383"),
        ({"number": -1}, "0 to 16383"),
        ({"block_bytes": 520}, "power of two"),
        ({"block_bytes": 256}, "power of two"),
        ({"block_count": 0}, "no disk"),
        ({"block_count": 1 << 60}, "no disk"),
        ({"physical_block_bytes": 1536}, "physical blocks"),
        ({"physical_block_bytes": 256}, "physical blocks"),
        ({"maximum_transfer_bytes": 511}, "maximum transfer"),
    ],
)
def test_a_wrong_value_is_one_clear_error(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        a_unit(**overrides)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"vendor": "NINECHARS"}, "vendor: 'NINECHARS' is not 1 to 8"),
        ({"product": ""}, "product"),
        ({"revision": "1.2.3"}, "revision"),
        ({"serial": "é"}, "serial"),
        ({"serial": "a\n"}, "serial"),
        ({"naa": bytes(16)}, "not an NAA designator"),
        ({"naa": b"\x60" * 8}, "8 bytes of NAA type 6"),
    ],
)
def test_a_wrong_name_is_one_clear_error(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Identity(**overrides)


def test_a_local_naa_of_eight_bytes_is_taken() -> None:
    assert Identity(naa=b"\x30" + bytes(7)).naa == b"\x30" + bytes(7)


def test_a_thin_unit_is_managed_as_soon_as_a_command_can_unmap() -> None:
    row = SYNCHRONIZE[0]
    with_unmap = CommandTable([row, replace(row, name="UNMAP", operation_code=0x42)])
    without = CommandTable([row])
    nothing = Provisioning(lbpme=False, lbprz=False, lbpu=False, lbpws=False, lbpws10=False, anc_sup=False)
    managed = nothing._replace(lbpme=True, lbprz=True, lbpu=True, anc_sup=True)
    assert provisioning(a_unit(thin=True), with_unmap) == managed
    assert provisioning(a_unit(thin=True), without) == nothing
    assert provisioning(a_unit(thin=False), with_unmap) == nothing


def test_a_check_condition_reads_as_its_names() -> None:
    condition = CheckCondition(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB, field=FieldPointer(2))
    assert str(condition) == "ILLEGAL REQUEST, INVALID FIELD IN CDB (24h/00h)"


def test_a_field_pointer_into_the_parameter_list_clears_the_cdb_bit() -> None:
    assert FieldPointer(0x0102, bit=3, in_cdb=False).encode() == bytes.fromhex("8B 01 02")
