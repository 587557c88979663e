"""The numbers of RFC 7143, by its names."""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag

BHS_BYTES = 48
"""Length of the basic header segment (RFC 7143 section 11.2)."""

RESERVED_TAG = 0xFFFFFFFF
"""The task tag that means "no task" (RFC 7143 section 11.2.1.8)."""

IMMEDIATE = 0x40
"""The I bit in the first byte of a request (RFC 7143 section 11.2.1.1)."""

OPCODE_MASK = 0x3F
FINAL = 0x80
"""The F bit of most PDUs; the T bit of login (RFC 7143 sections 11.2.1.3 and 11.12.1)."""

CONTINUE = 0x40
"""The C bit of text and login (RFC 7143 sections 11.10.2 and 11.12.2)."""

MAX_DATA_SEGMENT_BYTES = 2**24 - 1


class Opcode(IntEnum):
    """RFC 7143 section 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


class CommandFlag(IntFlag):
    """Flags of a SCSI Command (RFC 7143 section 11.3.1)."""

    FINAL = 0x80
    READ = 0x40
    WRITE = 0x20


class TaskAttribute(IntEnum):
    """The ATTR field of a SCSI Command (RFC 7143 section 11.3.1)."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class TaskFault(Enum):
    """What ends a task before the device server sees its command, as sense key, additional sense code and qualifier
    (RFC 7143 section 11.4.7.2, for the first four)."""

    UNEXPECTED_UNSOLICITED_DATA = (0xB, 0x0C, 0x0C)
    INCORRECT_AMOUNT_OF_DATA = (0xB, 0x0C, 0x0D)
    PROTOCOL_SERVICE_CRC_ERROR = (0xB, 0x47, 0x05)
    DATA_PHASE_ERROR = (0xB, 0x4B, 0x00)
    BIDIRECTIONAL = (0x5, 0x0E, 0x03)
    """INVALID FIELD IN COMMAND INFORMATION UNIT: no command here moves data both ways."""
    ACA_WITHOUT_CONDITION = (0x5, 0x49, 0x00)
    """INVALID MESSAGE ERROR: the ACA attribute where there is no ACA condition (SAM-5 section 8.6)."""


class DataInFlag(IntFlag):
    """Flags of a SCSI Data-In (RFC 7143 section 11.7.1)."""

    FINAL = 0x80
    ACKNOWLEDGE = 0x40
    OVERFLOW = 0x04
    UNDERFLOW = 0x02
    STATUS = 0x01


class ResponseFlag(IntFlag):
    """Flags of a SCSI Response (RFC 7143 section 11.4.1)."""

    FINAL = 0x80
    OVERFLOW = 0x04
    UNDERFLOW = 0x02


class TaskManagementFunction(IntEnum):
    """RFC 7143 section 11.5.1."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    """This one and those below: RFC 7144 section 6.3.1, from iSCSIProtocolLevel 2 on."""
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class TaskManagementResponse(IntEnum):
    """RFC 7143 section 11.6.1."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED = 4
    FUNCTION_NOT_SUPPORTED = 5
    FUNCTION_AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    """RFC 7144 section 6.3.2: what was asked for is there."""
    FUNCTION_REJECTED = 255


class Stage(IntEnum):
    """CSG and NSG of a login PDU (RFC 7143 section 11.12.3)."""

    SECURITY_NEGOTIATION = 0
    LOGIN_OPERATIONAL_NEGOTIATION = 1
    FULL_FEATURE_PHASE = 3


class LoginStatus(IntEnum):
    """Status-Class and Status-Detail of a Login Response as one number (RFC 7143 section 11.13.5)."""

    SUCCESS = 0x0000
    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302

    @property
    def moved(self) -> bool:
        """Whether the initiator is sent on."""
        return self >> 8 == 1


class LogoutReason(IntEnum):
    """RFC 7143 section 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_CONNECTION_FOR_RECOVERY = 2


class LogoutResponse(IntEnum):
    """RFC 7143 section 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class RejectReason(IntEnum):
    """RFC 7143 section 11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION_REJECT = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class AsyncEvent(IntEnum):
    """RFC 7143 section 11.9.1."""

    SCSI_EVENT = 0
    LOGOUT_REQUEST = 1
    CONNECTION_DROP = 2
    SESSION_DROP = 3
    NEGOTIATION_REQUEST = 4
