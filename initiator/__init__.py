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
from initiator.asyncio_face import AsyncioDisk, AsyncioReservations, AsyncioSession
from initiator.client import Connect, Login, connect, default_initiator_name, discover, isid_of, login, stay_logged_in
from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget, TargetAddress
from initiator.engine.paths import PathSettings, PathState, Policy
from initiator.errors import (
    AttemptAborted,
    AttentionPending,
    AuthenticationFailed,
    CommandAborted,
    CommandAbortedByTarget,
    CommandFailed,
    CommandRejected,
    ConnectFailed,
    CopyFailed,
    DifferentDisk,
    DiskChanged,
    FlushInDoubt,
    HardwareError,
    IllegalRequest,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    MalformedAnswer,
    MediumError,
    Miscompare,
    NoPath,
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
from initiator.events import (
    LoggedInAgain,
    LoginFailed,
    RoadEnded,
    RoadEvent,
    SessionGone,
    TargetSays,
    UnitAttention,
)
from initiator.multipath import Multipath
from initiator.multipath_options import MultipathOptions, PathStatus, StalePolicy
from initiator.opening import Opening
from initiator.options import SessionOptions
from initiator.recovery import Recovery
from initiator.reservations import Reservations
from initiator.scsi.answers import Capacity
from initiator.scsi.designators import Designator
from initiator.scsi.extended_copy import Cscd
from initiator.scsi.inquiry import (
    BlockDeviceCharacteristics,
    BlockLimits,
    DeviceIdentification,
    Inquiry,
    LogicalBlockProvisioning,
    RawPage,
    Referrals,
    SupportedPages,
    UnitSerialNumber,
    VpdPage,
)
from initiator.scsi.log import LogPage
from initiator.scsi.mode import (
    Caching,
    Control,
    InformationalExceptions,
    ModePage,
    ModeParameters,
    PageControl,
    PowerCondition,
    ReadWriteErrorRecovery,
)
from initiator.scsi.operation_codes import CommandSupport, SupportedCommand
from initiator.scsi.provisioning import Extent, LbaStatus, ProvisioningStatus
from initiator.scsi.reservations import (
    FullStatus,
    RegisteredKeys,
    Registrant,
    Reservation,
    ReservationCapabilities,
    ReservationType,
)
from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.target_ports import AccessState, TargetPortGroup, TargetPortGroups
from initiator.scsi.transport_id import TransportId
from initiator.scsi.vpd_copy import ThirdPartyCopy
from initiator.scsi.vpd_device import ExtendedInquiryData, ManagementNetworkAddresses, ModePagePolicies, ScsiPorts
from initiator.session import Session
from initiator.unit import LogicalUnit, units_of
from initiator.url import IscsiUrl, Portal, parse_portal, parse_portal_url, parse_url

__all__ = [
    "AccessState",
    "AsyncioDisk",
    "AsyncioReservations",
    "AsyncioSession",
    "AttemptAborted",
    "AttentionPending",
    "AuthenticationFailed",
    "BlockDeviceCharacteristics",
    "BlockLimits",
    "Caching",
    "Capacity",
    "CommandAborted",
    "CommandAbortedByTarget",
    "CommandFailed",
    "CommandRejected",
    "CommandSupport",
    "Connect",
    "ConnectFailed",
    "Control",
    "CopyFailed",
    "Credentials",
    "Cscd",
    "Designator",
    "DeviceIdentification",
    "DifferentDisk",
    "DiscoveredTarget",
    "Disk",
    "DiskChanged",
    "ExtendedInquiryData",
    "Extent",
    "FlushInDoubt",
    "FullStatus",
    "HardwareError",
    "IllegalRequest",
    "InformationalExceptions",
    "InitiatorError",
    "Inquiry",
    "IscsiUrl",
    "LbaStatus",
    "LogPage",
    "LoggedInAgain",
    "LogicalBlockProvisioning",
    "LogicalUnit",
    "Login",
    "LoginFailed",
    "LoginRedirected",
    "LoginRefused",
    "MalformedAnswer",
    "ManagementNetworkAddresses",
    "MediumError",
    "Miscompare",
    "ModePage",
    "ModePagePolicies",
    "ModeParameters",
    "Multipath",
    "MultipathOptions",
    "NoPath",
    "NotReady",
    "Opening",
    "PageControl",
    "PathSettings",
    "PathState",
    "PathStatus",
    "Policy",
    "Portal",
    "PowerCondition",
    "ProtocolViolation",
    "ProvisioningStatus",
    "RawPage",
    "ReadWriteErrorRecovery",
    "Recovery",
    "Referrals",
    "RegisteredKeys",
    "Registrant",
    "Reservation",
    "ReservationCapabilities",
    "ReservationConflict",
    "ReservationType",
    "Reservations",
    "ResidualMismatch",
    "RoadEnded",
    "RoadEvent",
    "ScsiPorts",
    "Sense",
    "SenseKey",
    "Session",
    "SessionClosed",
    "SessionGone",
    "SessionLost",
    "SessionOptions",
    "SpaceExhausted",
    "StalePolicy",
    "SupportedCommand",
    "SupportedPages",
    "TargetAddress",
    "TargetPortGroup",
    "TargetPortGroups",
    "TargetSays",
    "TaskManagementFailed",
    "TaskManagementFunction",
    "ThirdPartyCopy",
    "TimedOut",
    "TransportId",
    "UnitAttention",
    "UnitSerialNumber",
    "UnsupportedCommand",
    "UrlError",
    "VpdPage",
    "WriteProtected",
    "connect",
    "default_initiator_name",
    "discover",
    "isid_of",
    "login",
    "parse_portal",
    "parse_portal_url",
    "parse_url",
    "stay_logged_in",
    "units_of",
]
