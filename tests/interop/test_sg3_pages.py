"""What sg3_utils, which knows the standards well, reads in our pages; it needs no kernel for pages in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import TargetPorts
from tests.interop.programs import succeed
from tests.unit.scsi.application_client import ApplicationClient, a_unit
from tests.unit.scsi.store import Store

pytestmark = pytest.mark.interop

NAME = "iqn.2026-11.org.csvd:disk"


@pytest.fixture(scope="module")
def client() -> ApplicationClient:
    device = TargetDevice({0: a_unit(thin=True, keeps=True)}, name=NAME, ports=TargetPorts([1, 2]))
    return ApplicationClient(device).ready()


def shown(program: str, option: str, page: bytes, directory: Path) -> list[str]:
    """The lines that a program of sg3_utils prints of a page, without their indentation."""
    path = directory / "page.hex"
    path.write_text(page.hex(" ") + "\n")
    return [line.strip() for line in succeed(program, f"{option}{path}").splitlines()]


def vpd(client: ApplicationClient, code: int, directory: Path) -> list[str]:
    return shown("sg_vpd", "--inhex=", client.data(bytes((0x12, 1, code, 4, 0, 0))), directory)


def test_standard_inquiry_data(client: ApplicationClient, tmp_path: Path) -> None:
    lines = shown("sg_inq", "--inhex=", client.data("12 00 00 00 FF 00"), tmp_path)
    text = "\n".join(lines)
    for word in ("version=0x06  [SPC-4]", "TPGS=3", "MultiP=1", "CmdQue=1", "Protect=0", "Resp_data_format=2"):
        assert word in text
    assert "Vendor identification: CSVD" in lines


def test_every_vpd_page_that_is_listed_is_known(client: ApplicationClient, tmp_path: Path) -> None:
    codes = client.data("12 01 00 00 FF 00")[4:]
    titles = [vpd(client, code, tmp_path)[0] for code in codes]
    assert all(title.rstrip(":").endswith("VPD page") or title.endswith("(SBC):") for title in titles), titles
    assert len(set(titles)) == len(codes)


def test_device_identification(client: ApplicationClient, tmp_path: Path) -> None:
    text = "\n".join(vpd(client, 0x83, tmp_path))
    unit, _, rest = text.partition("Target port:")
    port, _, device = rest.partition("Target device that contains addressed lu:")
    assert unit.startswith("Device Identification VPD page:\nAddressed logical unit:")
    for kind in ("NAA,  code set: Binary", "T10 vendor identification,  code set: ASCII", "EUI-64 based"):
        assert f"designator type: {kind}" in unit
    assert "Relative target port: 0x1" in port
    assert "Target port group: 0x1" in port
    assert f"{NAME},t,0x0001" in port
    assert port.count("transport: Internet SCSI (iSCSI)") == 3
    assert device.rstrip().endswith(NAME)


def test_the_ports_and_the_policy_of_mode_pages(client: ApplicationClient, tmp_path: Path) -> None:
    ports = vpd(client, 0x88, tmp_path)
    assert [line for line in ports if line.startswith("Relative port")] == ["Relative port=1", "Relative port=2"]
    assert [line for line in ports if line.startswith(NAME)] == [f"{NAME},t,0x0001", f"{NAME},t,0x0002"]
    assert "therefore the policy applies to all modes pages and subpages" in vpd(client, 0x87, tmp_path)


def test_log_pages(client: ApplicationClient, tmp_path: Path) -> None:
    store = Store()
    store.used_bytes = 30 << 20

    def log(code: int) -> list[str]:
        page = client.run(bytes((0x4D, 0, 0x40 | code, 0, 0, 0, 0, 4, 0, 0)), store=store).data_in
        return shown("sg_logs", "--in=", page, tmp_path)

    assert "Available LBA mapping threshold resource count: 70" in log(0x0C)
    assert "Used LBA mapping threshold resource count: 30" in log(0x0C)
    assert "Current temperature = <not available>" in log(0x0D)
    assert len(log(0x00)) == 4
