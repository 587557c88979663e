"""`make fuzz`: an engine under atheris, guided by the coverage of it: the target's by default, or our initiator's.

    python -m tests.fuzz [--of target|initiator] [--seconds N] [--runs N] [--seed N] [--found FOLDER]

It starts from `corpus`, real initiators' streams, or from `initiator_corpus`, what real targets said, and keeps what it
finds in FOLDER between runs. An input at which
something raises, hangs or leaves something behind is written there as `crash-…` and can be run again by
`python -m tests.fuzz FILE`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
INITIATOR_CORPUS = Path(__file__).with_name("initiator_corpus")
ONE_INPUT_S = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("files", nargs="*", type=Path, help="run only these inputs")
    parser.add_argument("--of", choices=("target", "initiator"), default="target")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="the same with the same corpus gives the same run; 0: any")
    parser.add_argument("--found", type=Path, default=Path(".fuzz"))
    options = parser.parse_args()

    import atheris

    if options.of == "initiator":
        with atheris.instrument_imports(include=["csvd.iscsi.text", "csvd.iscsi.chap", "initiator"]):
            from tests.fuzz.initiator_room import MOST_INPUT_BYTES
            from tests.fuzz.initiator_room import one_initiator_input as one_input
        corpus = INITIATOR_CORPUS
    else:
        with atheris.instrument_imports(include=["csvd.iscsi", "csvd.scsi", "csvd.target"]):
            from tests.fuzz.room import MOST_INPUT_BYTES, one_input
        corpus = CORPUS

    options.found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={MOST_INPUT_BYTES}",
        f"-timeout={ONE_INPUT_S}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={options.found}/",
        *(map(str, options.files) if options.files else (str(options.found), str(corpus))),
    ]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
