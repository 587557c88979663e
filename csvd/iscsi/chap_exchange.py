"""The target's side of CHAP (RFC 7143 section 12.1.3): the initiator proves itself, then the target if it is asked."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from enum import Enum

from csvd.iscsi import chap
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import LoginStatus
from csvd.iscsi.errors import LoginFailure, TextError
from csvd.iscsi.keys import BadValue, parse_number


class _Step(Enum):
    """What the initiator has to send next."""

    ALGORITHM = "CHAP_A"
    RESPONSE = "CHAP_N and CHAP_R"
    NOTHING = "nothing"


class ChapExchange:
    """One exchange. Every wrong turn ends the login with status AUTHENTICATION_FAILURE.

    Args:
        credentials: the users that may prove themselves.
        proof: with what the target proves itself; None where it can not.
        algorithms: those taken.
        entropy: gives that many unpredictable bytes.
    """

    def __init__(
        self,
        credentials: Mapping[str, Credentials],
        proof: Credentials | None,
        algorithms: tuple[Algorithm, ...],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._credentials = credentials
        self._proof = proof
        self._algorithms = algorithms
        self._entropy = entropy
        self._step = _Step.ALGORITHM
        self._algorithm = Algorithm.MD5
        self._identifier = 0
        self._challenge = b""
        self.proven: Credentials | None = None
        """What the initiator has proved to know."""

    def __repr__(self) -> str:
        return f"<ChapExchange waits for {self._step.value}>"

    def take(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """Take the CHAP keys of one text; give those to answer with.

        Raises:
            LoginFailure: the initiator did not prove itself.
        """
        if self._step is _Step.ALGORITHM and keys.keys() == {"CHAP_A"}:
            return self._challenge_for(keys["CHAP_A"])
        if self._step is _Step.RESPONSE and {"CHAP_N", "CHAP_R"} <= keys.keys():
            self._step = _Step.NOTHING
            proven = self._check(keys["CHAP_N"], keys["CHAP_R"])
            answer = self._prove(keys, proven) if keys.keys() - {"CHAP_N", "CHAP_R"} else []
            self.proven = proven
            return answer
        raise _failure(f"CHAP keys {', '.join(sorted(keys))[:80]} where {self._step.value} is due")

    def _challenge_for(self, offered: str) -> list[tuple[str, str]]:
        algorithm = chap.choose_algorithm(offered, self._algorithms)
        if algorithm is None:
            raise _failure("no CHAP algorithm in common")
        self._algorithm = algorithm
        fresh = self._entropy(1 + chap.RESPONSE_BYTES[algorithm])
        self._identifier, self._challenge = fresh[0], fresh[1:]
        self._step = _Step.RESPONSE
        return [
            ("CHAP_A", str(int(algorithm))),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", chap.encode_binary(self._challenge)),
        ]

    def _check(self, user: str, value: str) -> Credentials:
        credentials = self._credentials.get(user)
        # An unknown user costs the same work and gets the same answer as a wrong secret.
        secret = credentials.secret if credentials is not None else self._entropy(16)
        try:
            given = chap.decode_binary(value)
        except TextError as error:
            raise _failure(str(error)) from error
        right = chap.verify(self._algorithm, self._identifier, secret, self._challenge, given)
        if not right or credentials is None:
            raise _failure(f"CHAP failed for user {user[:80]!r}")
        return credentials

    def _prove(self, keys: Mapping[str, str], proven: Credentials) -> list[tuple[str, str]]:
        """Answer the initiator's own challenge, but never one that would give away what it could use."""
        proof = self._proof
        if proof is None:
            raise _failure("the initiator asks this target to prove itself: no secret for that is set")
        if chap.same_secret(proof, proven):
            raise _failure("one secret for both directions of CHAP")
        try:
            identifier = parse_number(keys["CHAP_I"])
            challenge = chap.decode_binary(keys["CHAP_C"])
        except KeyError as error:
            raise _failure(f"the initiator's CHAP challenge lacks {error.args[0]}") from error
        except (BadValue, TextError) as error:
            raise _failure("the initiator's CHAP challenge is malformed") from error
        if identifier > 0xFF:
            raise _failure(f"CHAP_I={identifier} is above 255")
        if hmac.compare_digest(challenge, self._challenge):
            raise _failure("the initiator sends our own challenge back")
        answer = chap.response(self._algorithm, identifier, proof.secret, challenge)
        return [("CHAP_N", proof.user), ("CHAP_R", chap.encode_binary(answer))]


def _failure(what: str) -> LoginFailure:
    return LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, what)
