from __future__ import annotations

import pytest

from tests.interop.qemu import check_output

WROTE = "wrote 65536/65536 bytes at offset 0\n64 KiB, 1 ops; 00.00 sec (31.128 MiB/sec and 498.0457 ops/sec)\n"
READ = "read 65536/65536 bytes at offset 0\n64 KiB, 1 ops; 00.00 sec (31.128 MiB/sec and 498.0457 ops/sec)\n"
COMMANDS = ("aio_write -P 7 0 64k", "aio_flush", "read -P 7 0 64k", "flush")


def test_every_request_reported_whole_is_right() -> None:
    check_output(WROTE + READ, COMMANDS)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        WROTE,
        READ,
        WROTE + WROTE,
        WROTE + READ.replace("read 65536/", "read 512/"),
        WROTE + "Pattern verification failed at offset 0, 65536 bytes\n" + READ,
        WROTE + READ + "aio_write failed: Input/output error\n",
    ],
    ids=["nothing", "no read", "no write", "a second write", "a short read", "another pattern", "an error"],
)
def test_a_request_that_is_missing_short_wrong_or_failed_is_seen(printed: str) -> None:
    with pytest.raises(AssertionError):
        check_output(printed, COMMANDS)
