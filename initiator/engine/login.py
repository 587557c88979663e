"""The login phase, from our first Login Request to the full-feature phase (RFC 7143 sections 6.3, 12.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from csvd.errors import ConfigError
from csvd.iscsi import chap, text
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import CONTINUE, FINAL, IMMEDIATE, LoginStatus, Opcode, Stage
from csvd.iscsi.errors import TextError
from csvd.iscsi.keys import OFFER, SessionParameters, parse_number
from csvd.iscsi.layouts import PACKING, PADDING
from initiator.engine.negotiation import Proposal
from initiator.engine.session import SessionState
from initiator.errors import AuthenticationFailed, LoginRedirected, LoginRefused, ProtocolViolation

ALGORITHMS: Final = (Algorithm.SHA3_256, Algorithm.MD5, Algorithm.SHA256)
"""CHAP algorithms in the order in which we prefer them. MD5 goes before SHA-256 because tgt and IET take the number of
SHA-256, 7, for SHA-1, which had none when they were written: were it first, no login with them would succeed."""

MIN_CHALLENGE_BYTES: Final = 1 + 16
"""CHAP_I and CHAP_C for a target: as hard to guess as a response of MD5."""

MAX_ROUNDS: Final = 40
"""Login Responses until we give up. A login with CHAP takes 4."""

MAX_TEXT_BYTES: Final = 65536
"""The longest text of a target, over all PDUs with the C bit."""

LOGIN_SEGMENT_BYTES: Final = 8192
"""MaxRecvDataSegmentLength of both sides during the login (RFC 7143 section 13.12)."""

_REQUEST: Final = PACKING[Opcode.LOGIN_REQUEST]
_RESPONSE: Final = PACKING[Opcode.LOGIN_RESPONSE]
_TRANSIT: Final = FINAL
_NO_CREDENTIALS: Final = "the target demands CHAP: give a user and a secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSettings:
    """What a login is made with. Without a target name it is a discovery session."""

    initiator_name: str
    target_name: str = ""
    initiator_alias: str = ""
    isid: bytes = b""
    """The initiator session ID, 6 bytes (RFC 7143 section 11.12.5); empty for one by chance. With the same one a login
    takes the place of the session that has it (section 6.3.5), and has the reservations that were made in it."""
    credentials: Credentials | None = None
    target_credentials: Credentials | None = None
    """By what the target has to prove itself (mutual CHAP); it wants ``credentials``, and ``target_challenge``."""
    target_challenge: bytes = field(default=b"", repr=False)
    """CHAP_I and CHAP_C for the target: unpredictable bytes, fresh for each login."""
    algorithms: tuple[Algorithm, ...] = ALGORITHMS
    offer: SessionParameters = OFFER
    connection_id: int = 0

    def __post_init__(self) -> None:
        if self.target_credentials is None:
            return
        if self.credentials is None:
            raise ConfigError(
                "a target proves itself only to who proves himself",
                hint="give a CHAP user and its secret, too",
            )
        if chap.same_secret(self.target_credentials, self.credentials):
            raise ConfigError(
                "one secret for both directions of CHAP", hint="who knew one could play both: give each its own"
            )
        if len(self.target_challenge) < MIN_CHALLENGE_BYTES:
            raise ConfigError("the challenge for the target is too short to be hard to guess")

    @property
    def discovery(self) -> bool:
        """Whether this is a discovery session (RFC 7143 section 4.3)."""
        return not self.target_name


class _Expect(Enum):
    """What the next complete text of the target must bring."""

    METHOD = "AuthMethod"
    CHALLENGE = "the CHAP challenge"
    TRANSIT = "the end of security negotiation"
    KEYS = "operational keys"


class LoginExchange:
    """The initiator's side of one login: the first one of a session, or, where the session has a handle (TSIH)
    already, one that adds a connection to it (RFC 7143 section 6.3.1).

    :meth:`start` gives the first request; :meth:`answer` takes each response and gives the requests that follow. When
    ``done`` is set, the outcome stands in the session.
    """

    def __init__(self, session: SessionState, settings: LoginSettings) -> None:
        self.done = False
        self.exp_stat_sn = 0
        self._session = session
        self._settings = settings
        self._joins = session.tsih != 0
        agreed = session.parameters if self._joins else None
        self._proposal = Proposal(settings.offer, discovery=settings.discovery, session=agreed)
        self.parameters = session.parameters
        """What holds for the connection, when it is ``done``."""
        self._tag = session.new_tag()
        self._text = bytearray()
        self._rounds = 0
        self._first = True
        self._transit = False
        self._unsent: list[bytes] = []
        self._algorithm = Algorithm.MD5
        self._unproven = settings.target_credentials is not None
        """The target has not proved itself, and has to."""
        if settings.credentials is None:
            self._stage, self._expect = Stage.LOGIN_OPERATIONAL_NEGOTIATION, _Expect.KEYS
        else:
            self._stage, self._expect = Stage.SECURITY_NEGOTIATION, _Expect.METHOD

    def start(self) -> list[bytes]:
        """Give the first Login Request."""
        settings = self._settings
        pairs = [("InitiatorName", settings.initiator_name)]
        if settings.initiator_alias:
            pairs.append(("InitiatorAlias", settings.initiator_alias))
        if self._joins:
            pairs.append(("TargetName", settings.target_name))  # the session has its type
        elif settings.discovery:
            pairs.append(("SessionType", "Discovery"))
        else:
            pairs += [("SessionType", "Normal"), ("TargetName", settings.target_name)]
        if self._expect is _Expect.METHOD:
            # One-way CHAP proves us to the target, not the target to us: to offer None beside it gives nothing away.
            methods = "CHAP,None" if settings.target_credentials is None else "CHAP"
            return self._request([*pairs, ("AuthMethod", methods)], transit=False)
        return self._request(pairs + self._proposal.pairs(), transit=True)

    def answer(self, header: bytes | bytearray, at: int, data: bytes) -> list[bytes]:
        """Take a Login Response; give the Login Requests to send next.

        Raises:
            LoginRefused: the target ended the login; AuthenticationFailed and LoginRedirected are kinds of it.
            ProtocolViolation: the response breaks RFC 7143.
        """
        fields = _RESPONSE.unpack_from(header, at)
        _, flags, _, version, _, isid, tsih, tag, stat_sn, exp_cmd_sn, max_cmd_sn, status = fields
        self._count(len(data))
        if status != LoginStatus.SUCCESS:
            raise self._refusal(status, data)
        if tag != self._tag or isid != self._session.isid or version != 0:
            raise ProtocolViolation("a Login Response with another task tag, ISID or version")
        if not self._first and stat_sn != self.exp_stat_sn:
            raise ProtocolViolation(f"a Login Response with StatSN {stat_sn:#x}, not {self.exp_stat_sn:#x}")
        self._first = False
        self.exp_stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        self._session.window_moved(exp_cmd_sn, max_cmd_sn)
        transit, more = bool(flags & _TRANSIT), bool(flags & CONTINUE)
        may_transit = self._transit and not self._unsent and not more
        if flags >> 2 & 3 != self._stage or (transit and (not may_transit or flags & 3 != self._next_stage)):
            raise ProtocolViolation(f"a Login Response with flags {flags:#04x} in stage {self._stage.name}")
        self._text += data
        if more:
            return [self._pdu(b"", 0)]
        if self._unsent:
            return self._next_part()
        return self._whole_text(tsih, transit)

    def _count(self, data_bytes: int) -> None:
        self._rounds += 1
        if self._rounds > MAX_ROUNDS or len(self._text) + data_bytes > MAX_TEXT_BYTES:
            raise ProtocolViolation("the target's login has no end")

    @property
    def _next_stage(self) -> Stage:
        if self._stage is Stage.SECURITY_NEGOTIATION:
            return Stage.LOGIN_OPERATIONAL_NEGOTIATION
        return Stage.FULL_FEATURE_PHASE

    def _refusal(self, status: int, data: bytes) -> LoginRefused:
        if status >> 8 == 1:
            try:
                address = text.parse_unique(bytes(self._text) + data).get("TargetAddress", "")
            except TextError:
                address = ""
            if not address:
                raise ProtocolViolation("the target redirects the login and does not say where")
            return LoginRedirected(status, address)
        if status == LoginStatus.AUTHENTICATION_FAILURE:
            return AuthenticationFailed(_NO_CREDENTIALS if self._settings.credentials is None else "")
        return LoginRefused(status)

    def _whole_text(self, tsih: int, transit: bool) -> list[bytes]:
        try:
            keys = text.parse_unique(bytes(self._text))
        except TextError as error:
            raise ProtocolViolation("the target's login text is malformed", why=str(error)) from error
        self._text.clear()
        self._declarations(keys)
        if self._unproven and self._expect is _Expect.TRANSIT:
            self._check_proof(keys)
        if self._expect is _Expect.KEYS:
            return self._operational(keys, tsih, transit)
        if transit:
            if self._expect is not _Expect.TRANSIT:
                raise ProtocolViolation(f"the target ends security negotiation before {self._expect.value}")
            self._stage, self._expect = Stage.LOGIN_OPERATIONAL_NEGOTIATION, _Expect.KEYS
            return self._request(self._proposal.pairs(), transit=True)
        return self._security(keys)

    def _declarations(self, keys: dict[str, str]) -> None:
        """Take out what a target declares of itself in any stage (RFC 7143 sections 13.7 to 13.9)."""
        keys.pop("TargetAddress", None)
        keys.pop("TargetName", None)
        self._session.target_alias = keys.pop("TargetAlias", self._session.target_alias)[:255]
        tag = keys.pop("TargetPortalGroupTag", None)
        if tag is not None:
            try:
                number = parse_number(tag)
            except ValueError:
                number = -1
            joined = self._session.portal_group_tag if self._joins else None
            if not 0 <= number <= 0xFFFF or joined not in (None, number):
                raise ProtocolViolation(f"the target's portal group tag is {tag[:20]!r}")
            self._session.portal_group_tag = number

    def _security(self, keys: dict[str, str]) -> list[bytes]:
        if self._expect is _Expect.METHOD:
            method = keys.get("AuthMethod")
            if method == "CHAP":
                self._expect = _Expect.CHALLENGE
                offered = ",".join(str(int(algorithm)) for algorithm in self._settings.algorithms)
                return self._request([("CHAP_A", offered)], transit=False)
            if method == "None" and self._settings.target_credentials is None:
                self._expect = _Expect.TRANSIT
                return self._request([], transit=True)
            raise AuthenticationFailed(f"the target answers AuthMethod={(method or '')[:40]!r} to our offer", hint="")
        if self._expect is _Expect.CHALLENGE:
            self._expect = _Expect.TRANSIT
            return self._request(self._chap_answer(keys), transit=True)
        return self._request([], transit=True)

    def _chap_answer(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        credentials = self._settings.credentials
        assert credentials is not None, "CHAP is only offered with credentials"
        try:
            number, identifier = parse_number(keys["CHAP_A"]), parse_number(keys["CHAP_I"])
            challenge = chap.decode_binary(keys["CHAP_C"])
        except KeyError as error:
            raise ProtocolViolation(f"the target's CHAP challenge lacks {error.args[0]}") from error
        except (ValueError, TextError) as error:
            raise ProtocolViolation("the target's CHAP challenge is malformed") from error
        if number not in self._settings.algorithms or identifier > 0xFF:
            raise ProtocolViolation(f"the target chose CHAP_A={number} CHAP_I={identifier}, which was not offered")
        self._algorithm = Algorithm(number)
        answer = chap.response(self._algorithm, identifier, credentials.secret, challenge)
        pairs = [("CHAP_N", credentials.user), ("CHAP_R", chap.encode_binary(answer))]
        if self._unproven:
            ours = self._settings.target_challenge
            if challenge == ours[1:]:
                raise ProtocolViolation("the target's CHAP challenge is the one that we are going to send")
            pairs += [("CHAP_I", str(ours[0])), ("CHAP_C", chap.encode_binary(ours[1:]))]
        return pairs

    def _check_proof(self, keys: dict[str, str]) -> None:
        """See that the target knows its secret, before anything else is said to it."""
        expected, ours = self._settings.target_credentials, self._settings.target_challenge
        assert expected is not None, "it is asked for a proof only by these"
        try:
            name, answer = keys.pop("CHAP_N"), chap.decode_binary(keys.pop("CHAP_R"))
        except KeyError as error:
            raise AuthenticationFailed("the target does not prove itself", hint="") from error
        except TextError as error:
            raise ProtocolViolation("the target's CHAP response is malformed") from error
        right = chap.verify(self._algorithm, ours[0], expected.secret, ours[1:], answer)
        if not right or name != expected.user:
            raise AuthenticationFailed(f"the target, as {name[:80]!r}, did not prove itself", hint="")
        self._unproven = False

    def _operational(self, keys: dict[str, str], tsih: int, transit: bool) -> list[bytes]:
        replies = []
        for name, value in keys.items():
            if name == "AuthMethod" and value == "None":
                continue  # some targets say it though nobody asked
            reply = self._proposal.take(name, value)
            if reply is not None:
                replies.append((name, reply))
        if not transit:
            return self._request(replies, transit=True)
        if tsih == 0:
            raise ProtocolViolation("the login is done and the target gave the session no handle (TSIH)")
        replies = [pair for pair in replies if pair[1] not in ("Irrelevant", "NotUnderstood")]
        if replies:
            raise ProtocolViolation(f"the target proposes {replies[0][0]} in the PDU that ends the login")
        self.parameters = self._proposal.outcome()
        if not self._joins:
            self._session.tsih = tsih
            self._session.parameters = self.parameters
        elif tsih != self._session.tsih:
            raise ProtocolViolation(f"the target took the connection into session {tsih:#06x}, not ours")
        self.done = True
        return []

    def _request(self, pairs: list[tuple[str, str]], *, transit: bool) -> list[bytes]:
        """Build the requests of one text; all but the first wait for an answer each (RFC 7143 section 6.2)."""
        self._transit = transit
        self._unsent = text.split(text.build(pairs), LOGIN_SEGMENT_BYTES)
        return self._next_part()

    def _next_part(self) -> list[bytes]:
        part = self._unsent.pop(0)
        if self._unsent:
            return [self._pdu(part, CONTINUE)]
        return [self._pdu(part, _TRANSIT | self._next_stage if self._transit else 0)]

    def _pdu(self, data: bytes, flags: int) -> bytes:
        session = self._session
        header = _REQUEST.pack(
            Opcode.LOGIN_REQUEST | IMMEDIATE,
            flags | self._stage << 2,
            0,
            0,
            len(data),
            session.isid,
            session.tsih,
            self._tag,
            self._settings.connection_id,
            session.cmd_sn,
            self.exp_stat_sn,
        )
        return header + data + PADDING[len(data) & 3]
