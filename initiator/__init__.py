"""An iSCSI initiator in Python: discover targets, read and write disks; on asyncio, or on any Twisted reactor.

>>> import initiator
>>> async def copy_first_megabyte(source_url, target_url):
...     async with initiator.connect(source_url) as source:
...         data = await source.read(0, 2048)
...     async with initiator.connect(target_url) as target:
...         await target.write(0, data)
...         await target.flush()

With ``reactor=`` the same calls are for Twisted. Every failure is an :class:`InitiatorError` that says what, where and
why. No call waits longer than its deadline. ``docs/initiator.md`` is the guide.
"""

from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import TaskManagementFunction
from initiator.asyncio_face import AsyncioDisk, AsyncioSession
from initiator.client import Login, connect, default_initiator_name, discover, login
from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget, TargetAddress
from initiator.errors import (
    AttentionPending,
    AuthenticationFailed,
    CommandAborted,
    CommandAbortedByTarget,
    CommandFailed,
    CommandRejected,
    ConnectFailed,
    CopyFailed,
    HardwareError,
    IllegalRequest,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    MalformedAnswer,
    MediumError,
    Miscompare,
    NotReady,
    ProtocolViolation,
    ReservationConflict,
    ResidualMismatch,
    SessionClosed,
    SessionLost,
    SpaceExhausted,
    TaskManagementFailed,
    TimedOut,
    UnsupportedCommand,
    UrlError,
    WriteProtected,
)
from initiator.opening import Opening
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import (
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DeviceIdentification,
    Inquiry,
    LogicalBlockProvisioning,
    RawPage,
    SupportedPages,
    UnitSerialNumber,
    VpdPage,
)
from initiator.scsi.operation_codes import CommandSupport, SupportedCommand
from initiator.scsi.provisioning import Extent, LbaStatus, ProvisioningStatus
from initiator.scsi.sense import Sense, SenseKey
from initiator.session import Session, SessionOptions
from initiator.unit import LogicalUnit
from initiator.url import IscsiUrl, Portal, parse_portal, parse_portal_url, parse_url

__all__ = [
    "AsyncioDisk",
    "AsyncioSession",
    "AttentionPending",
    "AuthenticationFailed",
    "BlockDeviceCharacteristics",
    "BlockLimits",
    "Capacity",
    "CommandAborted",
    "CommandAbortedByTarget",
    "CommandFailed",
    "CommandRejected",
    "CommandSupport",
    "ConnectFailed",
    "CopyFailed",
    "Credentials",
    "Designator",
    "DeviceIdentification",
    "DiscoveredTarget",
    "Disk",
    "Extent",
    "HardwareError",
    "IllegalRequest",
    "InitiatorError",
    "Inquiry",
    "IscsiUrl",
    "LbaStatus",
    "LogicalBlockProvisioning",
    "LogicalUnit",
    "Login",
    "LoginRedirected",
    "LoginRefused",
    "MalformedAnswer",
    "MediumError",
    "Miscompare",
    "NotReady",
    "Opening",
    "Portal",
    "ProtocolViolation",
    "ProvisioningStatus",
    "RawPage",
    "ReservationConflict",
    "ResidualMismatch",
    "Sense",
    "SenseKey",
    "Session",
    "SessionClosed",
    "SessionLost",
    "SessionOptions",
    "SpaceExhausted",
    "SupportedCommand",
    "SupportedPages",
    "TargetAddress",
    "TaskManagementFailed",
    "TaskManagementFunction",
    "TimedOut",
    "UnitSerialNumber",
    "UnsupportedCommand",
    "UrlError",
    "VpdPage",
    "WriteProtected",
    "connect",
    "default_initiator_name",
    "discover",
    "login",
    "parse_portal",
    "parse_portal_url",
    "parse_url",
]
