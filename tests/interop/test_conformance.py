"""libiscsi's own conformance suite, iscsi-test-cu, whole, on every kind of logical unit.

`make conformance` writes what it finds, tgtd's column beside ours, into docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from tests.conformance.kinds import KINDS, run_kind
from tests.conformance.suite import Result, families, run_family
from tests.conformance.table import never_ran
from tests.interop.conftest import Serve
from tests.interop.cunit import FAILED

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]

# What no kind of logical unit can run, with the reason; docs/conformance.md has the same.
_NO_CRYPTO_ERASE = "CRYPTOGRAPHIC ERASE is refused: csvd encrypts nothing, so there is no key to throw away"
NEVER_RUNS = {
    "Sanitize.CryptoErase": _NO_CRYPTO_ERASE,
    "Sanitize.Readonly": f"in part: {_NO_CRYPTO_ERASE}",
    "Sanitize.Reservations": f"in part: {_NO_CRYPTO_ERASE}",
}


@cache
def columns() -> Mapping[str, list[Result]]:
    """Every test of the suite on every kind, two at a time: the suite sleeps for much of its time."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda kind: run_kind(kind, lambda line: None), KINDS.values())
        return dict(zip(KINDS, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_test_of_the_suite_fails(kind: str) -> None:
    failed = [f"{result.name}: {result.why}" for result in columns()[kind] if result.outcome == FAILED]
    assert not failed, "\n".join(failed)


def test_every_test_of_the_suite_runs_on_one_kind_at_least(tell_skipped: Callable[[str], None]) -> None:
    unseen = dict(never_ran(columns(), list(KINDS)))
    for name, why in unseen.items():
        tell_skipped(f"{name}: {why}")
    assert set(unseen) == set(NEVER_RUNS)


@pytest.mark.parametrize(
    "family", ["Inquiry", "ReadCapacity16", "Read10", "Read16", "Write10", "Write16", "WriteSame16"]
)
def test_blocks_of_4096_bytes(serve: Serve, family: str) -> None:
    target = serve("a.img", create="256M", block_bytes=4096)
    results = run_family(target.url, family, families()[family], whole=True)
    assert not [result for result in results if result.outcome == FAILED]
