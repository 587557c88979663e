"""The login phase at the target: security and operational negotiation (RFC 7143 section 6).

One :class:`Login` lives from the first Login Request of a connection to its full-feature phase. Every request gives one
:class:`LoginAnswer`, or raises :class:`LoginFailure` with the status to close with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from csvd.iscsi import text
from csvd.iscsi.access import OPEN, Access, Origin
from csvd.iscsi.chap import Credentials
from csvd.iscsi.chap_exchange import ChapExchange
from csvd.iscsi.codes import CONTINUE, FINAL, LoginStatus, Stage
from csvd.iscsi.errors import LoginFailure, TextError
from csvd.iscsi.keys import BadValue, Negotiation, SessionParameters, text_of
from csvd.iscsi.names import is_iscsi_name, normalize
from csvd.iscsi.node import NetworkEntity, TargetNode, no_such_session
from csvd.iscsi.session import Session

VERSION: Final = 0x00
MAX_REQUESTS: Final = 32
"""Login Requests before full-feature phase; CHAP with every key in a PDU of its own takes some ten."""
MAX_TEXT_BYTES: Final = 16384
"""Text gathered over PDUs with the C bit."""
_NOT_HERE: Final = (LoginStatus.NOT_FOUND, LoginStatus.TARGET_REMOVED)
ANSWER_BYTES: Final = 8192
"""What one Login Response carries at most: the MaxRecvDataSegmentLength that holds during login (section 13.12)."""


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
    tsih: int
    """Of the session that the connection joins; 0 for a new one."""
    cid: int
    proven: Credentials | None
    """What the initiator has proved to know."""


class Login:
    """The login machine of one connection.

    Args:
        entity: the targets behind the portal.
        origin: where the connection comes from.
        local_address: ``host:port`` at which it came.
    """

    def __init__(self, entity: NetworkEntity, origin: Origin, local_address: str) -> None:
        self._entity = entity
        self._origin = origin
        self._local_address = local_address
        self._requests = 0
        self._gathered = b""
        self._unsent: list[bytes] = []
        self._transit = 0
        """The T bit and the next stage of the answer that is being sent."""
        self._identity: LoginRequest | None = None
        self._stage: int | None = None
        self._initiator_name = ""
        self._leading: dict[str, str] = {}
        self._target: TargetNode | None = None
        self._joined: Session | None = None
        self._access: Access = OPEN
        self._negotiation = Negotiation()
        self._declared = False
        self._chap: ChapExchange | None = None
        self._may_go_without = False

    @property
    def outcome(self) -> LoginOutcome:
        """The outcome; only meaningful once an answer was ``complete``."""
        identity = self._identity
        assert identity is not None
        return LoginOutcome(
            self._initiator_name,
            self._target,
            self._negotiation.finish(),
            identity.isid,
            identity.tsih,
            identity.cid,
            self._chap.proven if self._chap is not None else None,
        )

    @property
    def joined(self) -> Session | None:
        """The session that this connection is going to join."""
        return self._joined

    @property
    def who(self) -> str:
        """Who logs in to what, as far as it has been told; empty before that."""
        if not self._initiator_name:
            return ""
        return f"{self._initiator_name} at {self._leading.get('TargetName', 'discovery')[:240]}"

    def __repr__(self) -> str:
        return f"<Login of {self._initiator_name or 'nobody yet'} stage={self._stage} {self._chap or ''}>"

    def step(self, request: LoginRequest, data: bytes) -> LoginAnswer:
        """Take one Login Request.

        Raises:
            LoginFailure: the login ends here, with the status it carries.
        """
        self._check_header(request)
        if self._unsent:
            return self._more(request, data)
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
            self._declare(pairs, answer)
        else:
            self._drop_repeated(pairs)
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

    # Who, to what, and of which kind

    def _begin(self, request: LoginRequest, pairs: dict[str, str]) -> None:
        """Take the keys of the leading text (RFC 7143 section 6.3)."""
        for name in ("InitiatorName", "SessionType", "TargetName"):
            if name in pairs:
                self._leading[name] = pairs.pop(name)
        name = self._leading.get("InitiatorName", "")
        if not name:
            raise LoginFailure(LoginStatus.MISSING_PARAMETER, "no InitiatorName in the first login text")
        if not is_iscsi_name(name):
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"not an iSCSI name: {name[:80]!r}")
        self._initiator_name = normalize(name)
        if self._entity.draining:
            raise LoginFailure(LoginStatus.SERVICE_UNAVAILABLE, "this node is being stopped")
        kind = self._leading.get("SessionType", "Normal")
        if kind == "Discovery":
            self._access = self._entity.discovery_access
        elif kind == "Normal":
            self._choose_target(self._leading.get("TargetName", ""))
        else:
            raise LoginFailure(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"no session type {kind[:40]!r}")
        if not self._access.admits(self._initiator_name, self._origin):
            raise LoginFailure(
                LoginStatus.AUTHORIZATION_FAILURE,
                f"{self._initiator_name} at {self._origin.address} is not let in",
                hint="see the access list of the target",
            )
        self._settle_session(request)

    def _settle_session(self, request: LoginRequest) -> None:
        target = self._target
        if target is not None:
            target.check_place(self._local_address, self._origin.portal_group_tag, joins=bool(request.tsih))
        if request.tsih:
            # Checked again when the login is complete: the session may have ended, or be full, by then.
            if target is None:
                raise no_such_session(request.tsih)
            self._joined = target.joinable(
                self._initiator_name, request.isid, request.tsih, request.cid, self._origin.portal_group_tag
            )
            self._negotiation = Negotiation(target.offer, session=self._joined.parameters)
        elif target is not None:
            self._negotiation = Negotiation(target.offer)
        else:
            self._negotiation = Negotiation(discovery=True)

    def _declare(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        """Say what this target is, once; it is not the initiator's to say."""
        if self._target is None:
            return
        answer.append(("TargetPortalGroupTag", str(self._origin.portal_group_tag)))
        if self._target.alias:
            answer.append(("TargetAlias", self._target.alias))
        for name, _ in answer:
            pairs.pop(name, None)

    def _choose_target(self, target_name: str) -> None:
        if not target_name:
            raise LoginFailure(LoginStatus.MISSING_PARAMETER, "no TargetName in a normal session")
        try:
            self._target = self._entity.target_for_login(target_name, self._origin.portal_group_tag)
        except LoginFailure as error:
            if not self._entity.stands_behind_a_portal or error.status not in _NOT_HERE:
                raise
            portal = self._local_address
            raise LoginFailure(
                LoginStatus.TARGET_MOVED_TEMPORARILY, f"{error.what}: ask {portal}", pairs=(("TargetAddress", portal),)
            ) from error
        self._access = self._target.access

    def _drop_repeated(self, pairs: dict[str, str]) -> None:
        """libiscsi names itself in the operational stage once more; it must stay who it is."""
        for name, value in self._leading.items():
            if pairs.pop(name, value) != value:
                raise LoginFailure(LoginStatus.INITIATOR_ERROR, f"{name} changed during login")

    # Security stage

    def _security(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        offered = pairs.pop("AuthMethod", None)
        if offered is not None:
            self._choose_method(offered.split(","), answer)
        keys = {name: pairs.pop(name) for name in list(pairs) if name.startswith("CHAP_")}
        if keys:
            if self._chap is None:
                raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, "CHAP keys and no CHAP under way")
            answer += self._chap.take(keys)
        self._negotiate(pairs, answer)

    def _choose_method(self, offered: list[str], answer: list[tuple[str, str]]) -> None:
        if self._chap is not None or self._may_go_without:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "AuthMethod offered twice")
        if self._needs_chap:
            if "CHAP" not in offered:
                raise _chap_is_demanded()
            access, name = self._access, self._initiator_name
            self._chap = ChapExchange(
                access.credentials_for(name), access.proof_for(name), access.algorithms, self._entity.entropy
            )
            answer.append(("AuthMethod", "CHAP"))
        elif "None" in offered:
            self._may_go_without = True
            answer.append(("AuthMethod", "None"))
        else:
            raise LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, "no AuthMethod in common: None is what is set here")

    @property
    def _needs_chap(self) -> bool:
        return bool(self._access.credentials_for(self._initiator_name))

    @property
    def _authenticated(self) -> bool:
        return not self._needs_chap or (self._chap is not None and self._chap.proven is not None)

    # Operational stage

    def _operational(self, pairs: dict[str, str], answer: list[tuple[str, str]]) -> None:
        if not self._authenticated:
            raise _chap_is_demanded()
        self._negotiate(pairs, answer)
        if not self._declared and all(name != "MaxRecvDataSegmentLength" for name, _ in answer):
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

    # The answer

    def _answer(self, request: LoginRequest, answer: list[tuple[str, str]]) -> LoginAnswer:
        self._unsent = text.split(text.build(answer), ANSWER_BYTES)
        self._transit = 0
        if request.transit and self._may_leave(request.current_stage):
            self._transit = FINAL | request.next_stage
        return self._next_part(request)

    def _more(self, request: LoginRequest, data: bytes) -> LoginAnswer:
        """The initiator fetches the next part of a long answer by an empty request (RFC 7143 section 6.2)."""
        if data or request.flags & CONTINUE:
            raise LoginFailure(LoginStatus.INITIATOR_ERROR, "text before the answer to the last one was complete")
        if not request.transit or request.next_stage != self._transit & 3:
            self._transit = 0  # T is the initiator's to set; it asks again
        return self._next_part(request)

    def _next_part(self, request: LoginRequest) -> LoginAnswer:
        part = self._unsent.pop(0)
        flags = request.current_stage << 2
        if self._unsent:
            return LoginAnswer(flags | CONTINUE, part, False)
        next_stage = self._transit & 3
        if next_stage == Stage.LOGIN_OPERATIONAL_NEGOTIATION:
            self._stage = next_stage
        return LoginAnswer(flags | self._transit, part, next_stage == Stage.FULL_FEATURE_PHASE)

    def _may_leave(self, stage: int) -> bool:
        """Security is left by who proved himself, or where nothing is to be proven."""
        if stage != Stage.SECURITY_NEGOTIATION or self._authenticated:
            return True
        if self._chap is None:
            raise _chap_is_demanded()
        return False


def _chap_is_demanded() -> LoginFailure:
    return LoginFailure(LoginStatus.AUTHENTICATION_FAILURE, "CHAP is demanded", hint="give the initiator a CHAP user")
