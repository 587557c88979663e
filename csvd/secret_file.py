"""Secrets are read from files that nobody else may read, never from a command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from csvd.errors import ConfigError

MAX_SECRET_BYTES = 4096


def read_secret(path: Path) -> bytes:
    """Read a secret: the file's bytes without a line end.

    Raises:
        ConfigError: it can not be read, others may read it, it is not a file, is empty or has more than 4,096 bytes.
    """
    try:
        # O_NONBLOCK: a FIFO put in its place must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError("can not read the secret", where=str(path), why=error.strerror or "") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("the secret is not in a file", where=str(path))
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError("others may read this secret", where=str(path), hint=f"chmod 600 {path}")
        secret = os.read(descriptor, MAX_SECRET_BYTES + 1).rstrip(b"\r\n")
    finally:
        os.close(descriptor)
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(f"a secret has 1 to {MAX_SECRET_BYTES} bytes", where=str(path))
    return secret
