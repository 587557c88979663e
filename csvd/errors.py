"""The one root of every error that csvd raises on purpose."""

from __future__ import annotations


class CsvdError(Exception):
    """An error that a person or a peer can act on.

    Args:
        what: what went wrong, as a sentence without a full stop.
        where: the file, address, key or object it concerns; empty where the sentence names it already.
        why: the cause, as far as it is known.
        hint: what to do next.

    ``str()`` gives one line, fit for stderr. Subclasses whose cause is a peer add its wire code.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.why:
            line += f": {self.why}"
        if self.hint:
            line += f" ({self.hint})"
        return line


class ConfigError(CsvdError):
    """A setting, an option or a file given by a person is wrong."""
