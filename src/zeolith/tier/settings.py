"""How the object store of a storage is reached, and how much stays here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CACHE_SIZE: Final = 10 * 1024**3
"""Bytes of blobs with files here, unless configured: what is in use on most sites."""

WORKERS: Final = 4
"""Transfers at once in each direction: enough to keep a line busy with small blobs."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds."""

READ_TIMEOUT: Final = 20.0
"""Seconds without a byte."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """A place in an S3-compatible object store.

    :ivar bucket: its name; it has to exist.
    :ivar prefix: what the keys of this storage's objects begin with; empty, or ends in a slash.
    :ivar endpoint_url: the store's address; None: that of AWS.
    :ivar region: None: as the environment says.
    :ivar profile: a section in the file of credentials; None: as the environment says.
    :ivar credentials_file: in the form of AWS's ``~/.aws/credentials``; None: from wherever boto
        looks for them: environment, ``~/.aws``, the machine's role.
    :ivar connect_timeout: seconds.
    :ivar read_timeout: seconds without a byte.
    :ivar workers: connections at once.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    read_timeout: float = READ_TIMEOUT
    workers: int = WORKERS

    def __str__(self) -> str:
        where = "S3" if self.endpoint_url is None else self.endpoint_url
        return f"bucket {self.bucket!r}, prefix {self.prefix!r}, at {where}"
