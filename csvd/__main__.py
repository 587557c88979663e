"""``python -m csvd``: the command line."""

from __future__ import annotations

from csvd.cli.main import main

if __name__ == "__main__":
    main()
