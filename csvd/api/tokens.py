"""The routes of join tokens."""

from __future__ import annotations

from collections.abc import Sequence

from csvd.api.bodies import CreateToken, body_of
from csvd.api.errors import Refused
from csvd.api.interfaces import Tokens
from csvd.api.routes import Answer, Request, Route


class TokenRoutes:
    """Answers for the tokens by which nodes join the cluster."""

    def __init__(self, tokens: Tokens | None) -> None:
        """
        Args:
            tokens: of the cluster; None at a node that is of none.
        """
        self._tokens = tokens

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        return (
            Route("GET", "/v1/tokens", self._list, "The join tokens that can be used now, without their secrets."),
            Route("POST", "/v1/tokens", self._create, "Make a join token: life_s, is_witness. The answer is a secret."),
            Route("DELETE", "/v1/tokens/{token}", self._revoke, "Revoke a join token, by its id or how that begins."),
        )

    async def _list(self, request: Request) -> Answer:
        return Answer(200, {"tokens": self._known().tokens()})

    async def _create(self, request: Request) -> Answer:
        body = body_of(request, CreateToken)
        if body.life_s is None:
            return Answer(201, await self._known().create_token(is_witness=body.is_witness))
        return Answer(201, await self._known().create_token(life_s=body.life_s, is_witness=body.is_witness))

    async def _revoke(self, request: Request) -> Answer:
        return Answer(200, await self._known().revoke_token(request.names["token"]))

    def _known(self) -> Tokens:
        if self._tokens is None:
            raise Refused("this node is of no cluster", hint="stop it, and make one by csvd init")
        return self._tokens
