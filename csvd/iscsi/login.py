"""The login phase at the target: security and operational negotiation (RFC 7143 section 6).

One :class:`Login` lives from the first Login Request of a connection to its full-feature phase. Every request gives one
:class:`LoginAnswer`, or raises :class:`LoginFailure` with the status to close with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from csvd.iscsi import chap, text
from csvd.iscsi.codes import CONTINUE, FINAL, LoginStatus, Stage
from csvd.iscsi.errors import LoginFailure, TextError
from csvd.iscsi.keys import BadValue, Negotiation, SessionParameters, text_of
from csvd.iscsi.names import is_iscsi_name, normalize
from csvd.iscsi.node import Access, NetworkEntity, TargetNode

VERSION: Final = 0x00
MAX_REQUESTS: Final = 32
"""Login Requests before full-feature phase; CHAP with every key in a PDU of its own takes some ten."""
MAX_TEXT_BYTES: Final = 16384
"""Text gathered over PDUs with the C bit."""
ANSWER_BYTES: Final = 8192
"""An answer fits the MaxRecvDataSegmentLength that holds during login (RFC 7143 section 13.12)."""


class LoginRequest(NamedTuple):
    """The header fields that login looks at."""

    flags: int
    version_max: int
    version_min: int
    isid: bytes
    tsih: int
    cid: int

    @property
    def transit(self) -> bool:
        return bool(self.flags & FINAL)

    @property
    def current_stage(self) -> int:
        return (self.flags >> 2) & 3

    @property
    def next_stage(self) -> int:
        return self.flags & 3


class LoginAnswer(NamedTuple):
    """What the Login Response carries."""

    flags: int
    data: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class LoginOutcome:
    """What a complete login settled."""

    initiator_name: str
    target: TargetNode | None
    """None in a discovery session."""
    parameters: SessionParameters
    isid: bytes
    cid: int


class Chap(Enum):
    """Where the CHAP exchange stands (RFC 7143 section 12.1.3)."""

    WAITS_FOR_ALGORITHM = "waits for CHAP_A"
    WAITS_FOR_RESPONSE = "waits for CHAP_N and CHAP_R"
    DONE = "done"


class Login:
    """The login machine of one connection."""

    def __init__(self, entity: NetworkEntity) -> None:
        self._entity = entity
        self._requests = 0
        self._gathered = b""
        self._identity: LoginRequest | None = None
        self._stage: int | None = None
        self._initiator_name = ""
        self._target: TargetNode | None = None
        self._discovery = False
        self._access = Access()
        self._negotiation = Negotiation()
        self._declared = False
        self._authenticated = False
        self._chap: Chap | None = None
        self._algorithm = chap.Algorithm.MD5
        self._identifier = 0
        self._challenge = b""

    @property
    def outcome(self) -> LoginOutcome:
        """The outcome; only meaningful once an answer was ``complete``."""
        assert self._identity is not None
        return LoginOutcome(
            self._initiator_name,
            self._target,
            self._negotiation.finish(),
            self._identity.isid,
            self._identity.cid,
        )

    def __repr__(self) -> str:
        return f"<Login of {self._initiator_name or 'nobody yet'} stage={self._stage} chap={self._chap}>"

    def step(self, request: LoginRequest, data: bytes) -> LoginAnswer:
        """Take one Login Request.

        Raises:
            LoginFailure: the login ends here, with the status it carries.
        """
        self._check_header(request)
        self._gathered += data
        if len(self._gathered) > MAX_TEXT_BYTES:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"login text above {MAX_TEXT_BYTES} bytes")
        if request.flags & CONTINUE:
            return LoginAnswer(request.current_stage << 2, b"", False)
        gathered, self._gathered = self._gathered, b""
        try:
            pairs = text.parse_unique(gathered)
        except TextError as error:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, str(error)) from error
        answer: list[tuple[str, str]] = []
        if self._stage is None:
            self._begin(request, pairs)
            if self._target is not None:
                answer.append(("TargetPortalGroupTag", str(self._target.portal_group_tag)))
                if self._target.alias:
                    answer.append(("TargetAlias", self._target.alias))
        self._stage = request.current_stage
        if self._stage == Stage.SECURITY_NEGOTIATION:
            self._security(pairs, answer)
        else:
            self._operational(pairs, answer)
        return self._answer(request, answer)

    def _check_header(self, request: LoginRequest) -> None:
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"more than {MAX_REQUESTS} Login Requests")
        if request.version_min > VERSION:
            raise LoginFailure(LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min:#x} at least is asked")
        if request.transit and request.flags & CONTINUE:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "T and C bits together")
        if request.current_stage not in (Stage.SECURITY_NEGOTIATION, Stage.LOGIN_OPERATIONAL_NEGOTIATION):
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"no such login stage: {request.current_stage}")
        if request.transit and (request.next_stage <= request.current_stage or request.next_stage == 2):
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"no transit to stage {request.next_stage}")
        if self._identity is None:
            self._identity = request
        elif (request.isid, request.tsih, request.cid) != self._identity[3:]:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "ISID, TSIH or CID changed during login")
        if self._stage is not None and request.current_stage < self._stage:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "back to the security stage")

    def _begin(self, request: LoginRequest, pairs: dict[str, str]) -> None:
        """Take the keys of the leading text: who, to what, and of which kind (RFC 7143 section 6.3)."""
        name = pairs.pop("InitiatorName", "")
        if not name:
            raise LoginFailure(LoginStatus.MISSING_PARAMETER, "no InitiatorName in the first login text")
        if not is_iscsi_name(name):
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"not an iSCSI name: {name[:80]!r}")
        self._initiator_name = normalize(name)
        pairs.pop("InitiatorAlias", None)
        kind = pairs.pop("SessionType", "Normal")
        target_name = pairs.pop("TargetName", "")
        if kind == "Discovery":
            self._discovery = True
            self._access = self._entity.discovery_access
        elif kind == "Normal":
            self._choose_target(target_name)
        else:
            raise LoginFailure(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"no session type {kind[:40]!r}")
        if not self._access.admits(self._initiator_name):
            raise LoginFailure(LoginStatus.AUTHORIZATION_FAILURE, f"{self._initiator_name} is not on the access list")
        if request.tsih:
            self._join(request)
        if self._target is not None:
            self._negotiation = Negotiation(self._target.offer)
        else:
            self._negotiation = Negotiation(discovery=True)

    def _choose_target(self, target_name: str) -> None:
        if not target_name:
            raise LoginFailure(LoginStatus.MISSING_PARAMETER, "no TargetName in a normal session")
        self._target = self._entity.targets.get(normalize(target_name))
        if self._target is None:
            raise LoginFailure(LoginStatus.NOT_FOUND, f"no target {target_name[:240]!r} here")
        self._access = self._target.access

    def _join(self, request: LoginRequest) -> None:
        """A TSIH names a session to join; sessions have one connection each, so nobody can (section 6.3.1)."""
        session = self._target.sessions.get(request.tsih) if self._target else None
        if session is None or session.initiator_name != self._initiator_name or session.isid != request.isid:
            raise LoginFailure(LoginStatus.SESSION_DOES_NOT_EXIST, f"no session with TSIH {request.tsih:#06x}")
        raise LoginFailure(LoginStatus.TOO_MANY_CONNECTIONS, "a session has one connection here")

    # Security stage

    def _security(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        offered = pairs.pop("AuthMethod", None)
        if offered is not None:
            self._choose_method(offered.split(","), answer)
        keys = {name: pairs.pop(name) for name in list(pairs) if name.startswith("CHAP_")}
        if keys:
            self._chap_step(keys, answer)
        self._negotiate(pairs, answer)

    def _choose_method(self, offered: list[str], answer: list[tuple[str, str]]) -> None:
        if self._chap is not None or self._authenticated:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "AuthMethod offered twice")
        if self._access.needs_chap:
            if "CHAP" not in offered:
                raise LoginFailure(
                    LoginStatus.AUTHENTICATION_FAILURE, "CHAP is demanded", hint="give the initiator a CHAP user"
                )
            self._chap = Chap.WAITS_FOR_ALGORITHM
            answer.append(("AuthMethod", "CHAP"))
        elif "None" in offered:
            self._authenticated = True
            answer.append(("AuthMethod", "None"))
        else:
            raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, "no AuthMethod in common: None is what is set here")

    def _chap_step(self, keys: dict[str, str], answer: list[tuple[str, str]]) -> None:
        if self._chap is Chap.WAITS_FOR_ALGORITHM and "CHAP_A" in keys:
            algorithm = chap.choose_algorithm(keys["CHAP_A"])
            if algorithm is None:
                raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, "no CHAP algorithm in common")
            self._algorithm = algorithm
            fresh = self._entity.entropy(1 + chap.CHALLENGE_BYTES)
            self._identifier, self._challenge = fresh[0], fresh[1:]
            self._chap = Chap.WAITS_FOR_RESPONSE
            answer.append(("CHAP_A", str(int(algorithm))))
            answer.append(("CHAP_I", str(self._identifier)))
            answer.append(("CHAP_C", chap.encode_binary(self._challenge)))
        elif self._chap is Chap.WAITS_FOR_RESPONSE and "CHAP_N" in keys and "CHAP_R" in keys:
            self._check_response(keys["CHAP_N"], keys["CHAP_R"])
            if "CHAP_I" in keys or "CHAP_C" in keys:
                raise LoginFailure(
                    LoginStatus.AUTHENTICATION_FAILURE,
                    "the initiator asks this target to prove itself: no secret for that",
                )
            self._chap = Chap.DONE
            self._authenticated = True
        else:
            raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, f"CHAP keys {', '.join(sorted(keys))} out of turn")

    def _check_response(self, user: str, value: str) -> None:
        credentials = self._access.credentials.get(user)
        # An unknown user costs the same work and gets the same answer as a wrong secret.
        secret = credentials.secret if credentials is not None else self._entity.entropy(16)
        try:
            given = chap.decode_binary(value)
        except TextError as error:
            raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, str(error)) from error
        right = chap.verify(self._algorithm, self._identifier, secret, self._challenge, given)
        if not right or credentials is None:
            raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, f"CHAP failed for user {user[:80]!r}")

    # Operational stage

    def _operational(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        if self._access.needs_chap and not self._authenticated:
            raise LoginFailure(
                LoginStatus.AUTHENTICATION_FAILURE, "CHAP is demanded", hint="give the initiator a CHAP user"
            )
        self._negotiate(pairs, answer)
        if not self._declared:
            self._declared = True
            # What this side takes in one PDU; without it 8192 holds, and writes are two to three times slower.
            ours = self._target.offer if self._target is not None else SessionParameters()
            answer.append(("MaxRecvDataSegmentLength", text_of(ours.max_recv_data_segment_length)))

    def _negotiate(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        for name, value in pairs.items():
            try:
                reply = self._negotiation.answer(name, value)
            except BadValue as error:
                raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"the key {name} was negotiated before") from error
            if reply is not None:
                answer.append((name, reply))

    def _answer(self, request: LoginRequest, answer: list[tuple[str, str]]) -> LoginAnswer:
        data = text.build(answer)
        if len(data) > ANSWER_BYTES:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "the answers to this text do not fit a Login Response")
        flags = request.current_stage << 2
        if not request.transit or not self._may_leave(request.current_stage):
            return LoginAnswer(flags, data, False)
        complete = request.next_stage == Stage.FULL_FEATURE_PHASE
        if not complete:
            self._stage = request.next_stage
        return LoginAnswer(flags | FINAL | request.next_stage, data, complete)

    def _may_leave(self, stage: int) -> bool:
        """Security is left by who proved himself, or where nothing is to be proven and no exchange is under way."""
        if stage != Stage.SECURITY_NEGOTIATION or self._authenticated:
            return True
        if self._access.needs_chap and self._chap is None:
            raise LoginFailure(
                LoginStatus.AUTHENTICATION_FAILURE, "CHAP is demanded", hint="give the initiator a CHAP user"
            )
        return not self._access.needs_chap
