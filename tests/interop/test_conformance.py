"""libiscsi's own conformance suite, iscsi-test-cu, family by family."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bench.targets import Target
from tests.interop.conftest import Serve
from tests.interop.cunit import SETUP, parse_cunit
from tests.interop.programs import run

pytestmark = pytest.mark.interop

FAMILIES = (
    "iSCSIcmdsn",
    "iSCSIdatasn",
    "iSCSIResiduals",
    "iSCSITMF",
    "ExtendedCopy",
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "ReadCapacity10",
    "ReadCapacity16",
    "Read6",
    "Read10",
    "Read12",
    "Read16",
    "ReceiveCopyResults",
    "ReportSupportedOpcodes",
    "TestUnitReady",
    "Write10",
    "Write12",
    "Write16",
)

# A test that lacks a command or a feature of the disk marks itself as skipped and counts as passed. These reasons may
# be given; any other means that a command is missing which csvd is meant to have.
_NO_KEY = "SANITIZE CRYPTO_ERASE is not implemented according to REPORT_SUPPORTED_OPCODES"
MAY_SKIP = {
    *((test, _NO_KEY) for test in ("CryptoErase", "Readonly", "Reservations")),
    (SETUP, "PERSISTENT RESERVE IN is not implemented"),
    ("BlockLimits", "Logical unit is fully provisioned. Skipping test"),
    ("WriteVerify10Residuals", "WRITEVERIFY10 is not implemented"),
    ("WriteVerify12Residuals", "WRITEVERIFY12 is not implemented"),
    ("WriteVerify16Residuals", "WRITEVERIFY16 is not implemented"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_iscsi_test_cu(serve: Serve, tell_skipped: Callable[[str], None], family: str) -> None:
    # READ(6) reaches 1 GiB: only on a smaller disk can it be sent past the end.
    check_family(serve("a.img", create="256M"), family, tell_skipped)


@pytest.mark.parametrize("family", ["Inquiry", "ReadCapacity16", "Read10", "Read16", "Write10", "Write16"])
def test_iscsi_test_cu_on_blocks_of_4096_bytes(serve: Serve, tell_skipped: Callable[[str], None], family: str) -> None:
    check_family(serve("a.img", create="256M", block_bytes=4096), family, tell_skipped)


def test_iscsi_test_cu_sanitizes(serve: Serve, tell_skipped: Callable[[str], None]) -> None:
    # Without the one that needs a disk of gigabytes, and minutes (tests/conformance has it).
    names = (
        "BlockErase BlockEraseReserved CryptoErase CryptoEraseReserved ExitFailureMode InvalidServiceAction Overwrite"
    )
    names += " OverwriteReserved Readonly Reservations"
    families = ",ALL.".join(f"Sanitize.{name}" for name in names.split())
    check_family(serve("a.img", create="64M"), families, tell_skipped, "-S")


def check_family(target: Target, family: str, tell_skipped: Callable[[str], None], *options: str) -> None:
    done = run("iscsi-test-cu", "-d", *options, "-t", f"ALL.{family}", target.url, timeout_s=200)

    # A family that there is not gives an empty run and 0; a failed test gives 1; no connection gives 255, no report.
    report = parse_cunit(done.stdout)
    for test, reason in report.skipped:
        tell_skipped(f"{test}: {reason}")
    assert report.ran > 0, str(done)
    assert report.failed == 0, "\n".join([*report.failures, str(done)])
    assert report.passed == report.ran, str(done)
    assert done.status == 0, str(done)
    assert set(report.skipped) <= MAY_SKIP, str(done)
