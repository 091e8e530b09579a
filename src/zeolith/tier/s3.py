"""An object store that speaks S3, by way of boto3.

This is the only module that imports boto3, which takes a third of a second: when the first store is
made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from ..errors import ConfigurationError
from .failures import ObjectDamaged, ObjectMissing, StoreUnavailable
from .objects import CheckedFile, Listed, StoredObject
from .settings import StoreSettings

MARKER: Final = "zeolith-blobs"
"""Key, behind the prefix, of what says which database the objects belong to."""

PART_SIZE: Final = 64 * 1024 * 1024
"""Bytes of one request: what is larger is uploaded in parts.  A part is not kept in memory."""

_READ_SIZE: Final = 256 * 1024
_MOST_DELETED: Final = 1000  # in one request, as S3 has it
_MARKER_SIZE: Final = 1024
_ATTEMPTS: Final = 2
"""A connection that the store has closed meanwhile must not fail a commit; a store that is down
must fail it soon."""

_PRESENT: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_UNCONDITIONAL: Final = frozenset({"NotImplemented", "501"})
"""What a store says that cannot write only what is not there."""

_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Store:
    """See :class:`.objects.ObjectStore`.

    :param settings: where it is.
    :raises ConfigurationError: boto3 is not installed, or cannot make use of the settings.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._prefix = settings.prefix
        self._client = _make_client(settings)

    def put(self, found: StoredObject, path: str, labels: dict[str, str]) -> None:
        from boto3.s3.transfer import TransferConfig

        metadata = {**labels, "sha256": found.sha256, "length": str(found.size)}
        with self._asking("store"):
            self._client.upload_file(
                path,
                self._settings.bucket,
                self._prefix + found.name,
                ExtraArgs={"Metadata": metadata},
                Config=TransferConfig(
                    multipart_threshold=PART_SIZE, multipart_chunksize=PART_SIZE, use_threads=False
                ),
            )

    def get(self, wanted: StoredObject, path: str) -> None:
        file = CheckedFile(path)
        try:
            with self._asking("fetch", wanted.name):
                answer = self._get(wanted.name)
                body = answer["Body"]
                try:
                    while data := self._read(body):
                        file.write(data)
                finally:
                    body.close()
            problem = file.finish(wanted)
        finally:
            file.close()
        if problem is not None:
            raise ObjectDamaged(
                f"object {self._prefix}{wanted.name} in the object store is damaged: {problem}"
            )

    def list(self) -> Iterator[Listed]:
        token: dict[str, str] = {}
        while True:
            with self._asking("list"):
                answer = self._client.list_objects_v2(
                    Bucket=self._settings.bucket, Prefix=self._prefix, **token
                )
            now = _date_of(answer)
            for entry in answer.get("Contents", ()):
                name = entry["Key"][len(self._prefix) :]
                if name != MARKER:
                    yield Listed(name, (now - entry["LastModified"]).total_seconds())
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, names: Iterable[str]) -> None:
        rest = iter(names)
        while some := list(islice(rest, _MOST_DELETED)):
            keys = [{"Key": self._prefix + name} for name in some]
            with self._asking("delete"):
                answer = self._client.delete_objects(
                    Bucket=self._settings.bucket, Delete={"Objects": keys, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise StoreUnavailable(
                    f"the object store does not delete {error.get('Key')}: {error.get('Message')}"
                )

    def read_marker(self) -> str | None:
        with self._asking("read"):
            try:
                body = self._get(MARKER)["Body"]
            except self._client.exceptions.NoSuchKey:
                return None
            with body:
                text: str = body.read(_MARKER_SIZE).decode("utf-8", "replace")
                return text

    def write_marker(self, text: str) -> None:
        from botocore.exceptions import ClientError

        with self._asking("write to"):
            try:
                self._write_marker(text, IfNoneMatch="*")
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in _UNCONDITIONAL:
                    self._write_marker(text)
                elif code not in _PRESENT:
                    raise

    def _write_marker(self, text: str, **condition: str) -> None:
        self._client.put_object(
            Bucket=self._settings.bucket, Key=self._prefix + MARKER, Body=text.encode(), **condition
        )

    def _get(self, name: str) -> Any:
        return self._client.get_object(Bucket=self._settings.bucket, Key=self._prefix + name)

    def _read(self, body: Any) -> bytes:
        try:
            data: bytes = body.read(_READ_SIZE)
        except OSError as error:  # it would be taken for one of the disk here
            raise self._unavailable("fetch", error) from error
        return data

    @contextmanager
    def _asking(self, what: str, name: str = "") -> Iterator[None]:
        """Translate what boto3 raises."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if name and code in _MISSING:
                raise ObjectMissing(
                    f"object {self._prefix}{name} is not in the object store "
                    f"({self._settings}): somebody has deleted it"
                ) from error
            raise self._unavailable(what, error) from error
        except (BotoCoreError, Boto3Error, HTTPClientError, HTTPError) as error:
            raise self._unavailable(what, error) from error

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        # What these say names hosts, keys and codes, and no credentials.
        return StoreUnavailable(
            f"cannot {what} blobs: the object store ({self._settings}) fails: {error}"
        )


def _date_of(answer: Any) -> datetime:
    """Return the store's time, so that clocks may differ."""
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _make_client(settings: StoreSettings) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        raise ConfigurationError(
            "<tieredblobs>", f"needs a package that is not installed: {error}",
            "install zeolith[s3]",
        ) from error  # fmt: skip
    session = Session()
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", settings.credentials_file)
    if settings.profile is not None:
        session.set_config_variable("profile", settings.profile)
    config = Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=2 * settings.workers + 2,
        # A store of one's own seldom has a name for each bucket.
        s3={"addressing_style": "auto" if settings.endpoint_url is None else "path"},
    )
    try:
        return boto3.Session(botocore_session=session).client(
            "s3", region_name=settings.region, endpoint_url=settings.endpoint_url, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            "<tieredblobs>", f"cannot be used: {error}", "check endpoint-url, region and profile"
        ) from error
