"""Files with secrets that the configuration names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from csvd.errors import ConfigError
from csvd.secret_file import MAX_SECRET_BYTES, read_secret

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"


def read_secret_file(path: Path) -> bytes:
    """Read a secret, from a file that only the user of the daemon (and root) may read.

    Credentials that systemd hands over (LoadCredential=) are taken as they are: systemd keeps others out by an ACL,
    which shows as a group's right in the mode.

    Raises:
        ConfigError: it can not be read, others may read it or own it, or it is empty or too long.
    """
    if _is_credential(path):
        return _read_credential(path)
    secret = read_secret(path)
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


def _is_credential(path: Path) -> bool:
    directory = os.environ.get(CREDENTIALS_VARIABLE, "")
    return os.path.isabs(directory) and path.parent == Path(directory)


def _read_credential(path: Path) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IRWXO:
            raise ConfigError("others may read this credential", where=str(path))
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError("can not read the credential", where=str(path), why=error.strerror or "") from error
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(f"a secret has 1 to {MAX_SECRET_BYTES} bytes", where=str(path))
    return secret
