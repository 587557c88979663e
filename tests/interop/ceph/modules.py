"""`python -m tests.interop.ceph.modules`: fails where this Python can not load Ceph's modules, and says why."""

from __future__ import annotations

import sys

from csvd.errors import ConfigError
from csvd.storage.rbd.library import load_library


def main() -> int:
    """Try it."""
    try:
        load_library()
    except ConfigError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
