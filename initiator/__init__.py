"""An iSCSI initiator in Python: discover targets, read and write disks, on any Twisted reactor.

>>> import initiator
>>> async def copy_first_megabyte(reactor, source_url, target_url):
...     async with await initiator.connect(source_url, reactor=reactor) as source:
...         data = await source.read(0, 2048)
...     async with await initiator.connect(target_url, reactor=reactor) as target:
...         await target.write(0, data)
...         await target.flush()

Every failure is an :class:`InitiatorError` that says what, where and why. No call waits longer than its deadline.
"""

from csvd.iscsi.chap import Credentials
from initiator.client import connect, default_initiator_name, discover, login
from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget, TargetAddress
from initiator.errors import (
    AuthenticationFailed,
    CommandAborted,
    CommandFailed,
    CommandRejected,
    ConnectFailed,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    MalformedAnswer,
    ProtocolViolation,
    ResidualMismatch,
    SessionClosed,
    SessionLost,
    TaskManagementFailed,
    TimedOut,
    UrlError,
)
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
from initiator.scsi.sense import Sense, SenseKey
from initiator.session import Session, SessionOptions
from initiator.url import IscsiUrl, Portal, parse_portal, parse_url

__all__ = [
    "AuthenticationFailed",
    "BlockDeviceCharacteristics",
    "BlockLimits",
    "Capacity",
    "CommandAborted",
    "CommandFailed",
    "CommandRejected",
    "ConnectFailed",
    "Credentials",
    "Designator",
    "DeviceIdentification",
    "DiscoveredTarget",
    "Disk",
    "InitiatorError",
    "Inquiry",
    "IscsiUrl",
    "LogicalBlockProvisioning",
    "LoginRedirected",
    "LoginRefused",
    "MalformedAnswer",
    "Portal",
    "ProtocolViolation",
    "RawPage",
    "ResidualMismatch",
    "Sense",
    "SenseKey",
    "Session",
    "SessionClosed",
    "SessionLost",
    "SessionOptions",
    "SupportedPages",
    "TargetAddress",
    "TaskManagementFailed",
    "TimedOut",
    "UnitSerialNumber",
    "UrlError",
    "VpdPage",
    "connect",
    "default_initiator_name",
    "discover",
    "login",
    "parse_portal",
    "parse_url",
]
