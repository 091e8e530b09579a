"""``<tieredblobs>``: a FileStorage whose blobs are in an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ZODB.config

from ..errors import ConfigurationError
from .datatypes import Refused

if TYPE_CHECKING:
    from ..tier.tier import BlobTier

OPTION = "<tieredblobs>"


class TieredBlobs(ZODB.config.BaseConfig):
    """Opens the storage in the section, and ties its blob directory to the store.

    What it returns is the FileStorage itself: all that is made for one works as it does without.
    """

    @property
    def path(self) -> str | None:
        """The database's file."""
        return getattr(getattr(self.config.base, "config", None), "path", None)

    def open(self) -> Any:
        """Open the storage.

        :raises ConfigurationError: it is no FileStorage with a blob directory, or the store cannot
            be used with these settings.  Whether it can be reached is seen later.
        """
        from ZODB.FileStorage import FileStorage

        storage = self.config.base.open()
        try:
            if type(storage) is not FileStorage or not storage.blob_dir:
                raise ConfigurationError(
                    OPTION,
                    "the storage in it is no FileStorage with a blob directory",
                    "put a <filestorage> with blob-dir in it",
                )
            if storage.isReadOnly():
                raise ConfigurationError(
                    OPTION,
                    "the storage in it is read-only: blobs could be neither fetched nor evicted",
                    "remove read-only; the key of that name in <zeo> keeps clients from writing",
                )
            self.make_tier(storage.fshelper).attach(storage)
        except BaseException:
            storage.close()
            raise
        return storage

    def make_tier(self, helper: Any) -> BlobTier:
        """Return what ties a blob directory to the store.

        :param helper: ZODB's ``FilesystemHelper`` of the directory.
        :raises ConfigurationError: see :meth:`open`.
        """
        from ..tier.s3 import S3Store
        from ..tier.settings import StoreSettings
        from ..tier.tier import BlobTier

        config = self.config
        settings = StoreSettings(
            bucket=config.bucket,
            prefix=config.prefix,
            endpoint_url=config.endpoint_url,
            region=config.region,
            profile=config.profile,
            credentials_file=config.credentials_file,
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            workers=config.workers,
        )
        return BlobTier(helper, S3Store(settings), config.cache_size, workers=config.workers)


def bucket(text: str) -> str:
    """The name of a bucket."""
    if not text or "/" in text or text != text.strip():
        raise Refused(f"{text!r} is no name of a bucket", "give the name alone, without s3://")
    return text


def prefix(text: str) -> str:
    """What keys begin with: a path without a slash in front; one is put behind it."""
    if text.startswith("/") or not text.isprintable():
        raise Refused(f"{text!r} cannot begin a key", "give a word, or words with slashes between")
    text = text.rstrip("/")
    return f"{text}/" if text else ""


def endpoint_url(text: str) -> str:
    """The address of a store."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_url = is_url and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise Refused(f"{text!r} is no address", "give one as in https://s3.example.org:9000")
    if parts.username is not None or parts.password is not None:
        # Where everybody would see them: in the log, and in the status.
        raise Refused("has a name or password in it", "use credentials-file, or the environment")
    return text
