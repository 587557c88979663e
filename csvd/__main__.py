"""``python -m csvd``: the command line."""

from __future__ import annotations

import signal

# Until the command line is there to take it, Ctrl-C ends the process: imports take a while, and a traceback of theirs
# tells nobody anything.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from csvd.cli.main import main  # noqa: E402 - see above

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
