"""Files with secrets that the configuration names."""

from __future__ import annotations

import os
from pathlib import Path

from csvd.errors import ConfigError
from csvd.secret_file import is_credential, read_secret


def read_secret_file(path: Path) -> bytes:
    """Read a secret, from a file that only the user of the daemon (and root) may read, or a credential of systemd.

    Raises:
        ConfigError: it can not be read, others may read it or own it, or it is empty or too long.
    """
    secret = read_secret(path)
    if is_credential(path):
        return secret
    try:
        owner = os.stat(path).st_uid
    except OSError as error:
        raise ConfigError("can not read the secret", where=str(path), why=error.strerror or "") from error
    if owner not in (0, os.geteuid()):
        raise ConfigError(
            f"this secret belongs to user {owner}",
            where=str(path),
            hint="it must belong to the user of the daemon or to root",
        )
    return secret
