"""A service that is as simple as one can be that keeps something and tells all nodes."""

from __future__ import annotations

from csvd.cluster.coordination.faces import Json, Office
from csvd.errors import CsvdError


class Counting:
    """A service that counts, and tells all nodes what it has come to."""

    name = "counting"

    def __init__(self) -> None:
        self.office: Office | None = None
        self.gone: list[str] = []
        self.come: list[str] = []

    async def begin(self, office: Office) -> None:
        self.office = office

    def end(self) -> None:
        self.office = None

    async def asked(self, node: str, method: str, params: Json) -> Json:
        office = self.office
        assert office is not None
        if method != "add":
            raise CsvdError("no such method", where=method)
        value = office.records.get("counting/value", 0) + 1
        await office.keep({"counting/value": value}, answer={"value": value})
        await office.push("counting", "is", {"value": value})
        return {"value": value}

    def node_gone(self, node: str) -> None:
        self.gone.append(node)

    def node_come(self, node: str) -> None:
        self.come.append(node)
