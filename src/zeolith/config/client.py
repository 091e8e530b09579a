"""Client storages in a configuration: ``<zeolith>``, ``<clientstorage>``, ``<zeoclient>``.

A server may serve what it opens at another server.  ZODB's own ``<zeoclient>`` would open ZEO's
client for that; :func:`adopt` has a schema open ours, without PyPI's ZEO.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from ..errors import ConfigurationError
from .address import Address, format_address
from .datatypes import Refused, address, tls_settings

logger = logging.getLogger(__name__)

_KEYS: Final = {"addr": "server", "cache": "cache-path"}
"""Keywords of the client storage whose keys have other names."""


def server_address(text: str) -> Address:
    """The address of a server to connect to."""
    value = address(text)
    if not isinstance(value, str) and not value[1]:
        raise Refused("port 0 cannot be connected to", "name the port at which the server listens")
    return value


class Client:
    """Opens a client storage.

    :param section: what ZConfig has read.
    :ivar name: name of the section, under which a server serves the storage.
    :ivar config: the section.
    :raises Refused: a key cannot be used, or not together with another one.
    """

    def __init__(self, section: Any) -> None:
        self.name: str | None = section.getSectionName()
        self.config = section
        try:
            self._keywords = self._take(_keywords(section))
            check_keywords(self._keywords)
        except ConfigurationError as error:
            key = _KEYS.get(error.option, error.option.replace("_", "-"))
            raise Refused(error.problem, error.remedy, key) from error

    def _take(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Return those of *keywords* that the storage is opened with."""
        return keywords

    @property
    def addresses(self) -> list[Address]:
        """Where the server may be."""
        addresses: list[Address] = self._keywords["addr"]
        return addresses

    @property
    def description(self) -> str:
        """What is opened, in a few words."""
        addresses = ", ".join(format_address(address) for address in self.addresses)
        return f"storage {self.config.storage!r} of {addresses}"

    def open(self) -> Any:
        """Open and return the storage.

        :raises ClientDisconnected: no server answered in time.
        """
        from ..client.storage import ClientStorage

        return ClientStorage(**self._keywords)


class ZeoClient(Client):
    """The same for ZEO's own sections, which may say what ZEO documents to be ignored.

    Blob keys beside a shared directory, or without any, are left out; the log says so when the
    storage is opened.
    """

    def _take(self, keywords: dict[str, Any]) -> dict[str, Any]:
        from ..client.ineffective import leave_out_blobs

        kept, self._left_out = leave_out_blobs(keywords)
        return kept

    def open(self) -> Any:
        """Open and return the storage.

        :raises ClientDisconnected: no server answered in time.
        """
        for reason in self._left_out:
            logger.warning("%s: %s", self.description, reason)
        return super().open()


def _keywords(section: Any) -> dict[str, Any]:
    """Return the keywords of the client storage that *section* describes."""
    # An address of <zeoclient> is an object of ZConfig's.
    keywords: dict[str, Any] = {
        "addr": [getattr(server, "address", server) for server in section.server],
        "cache": getattr(section, "cache_path", None),
    }
    for keyword in (
        "storage", "cache_size", "name", "wait_timeout", "read_only", "read_only_fallback",
        "blob_dir", "shared_blob_dir", "blob_cache_size", "blob_cache_size_check", "client_label",
        "client", "var", "min_disconnect_poll", "max_disconnect_poll", "wait",
        "drop_cache_rather_verify", "server_sync", "database_behind", "dead_server_timeout",
        "compression", "shared_cache", "username", "password", "password_file", "realm",
    ):  # fmt: skip
        if hasattr(section, keyword):
            keywords[keyword] = getattr(section, keyword)
    tls = getattr(section, "ssl", None)
    if tls is not None:
        from .credentials import FileCredentials

        if tls.client_certificates is not None:
            raise ConfigurationError(
                "client-certificates",
                "is for servers, and has no effect in a client",
                "remove the line",
            )
        keywords["ssl"] = FileCredentials.of_client(tls_settings(tls))
        keywords["ssl_server_hostname"] = tls.server_hostname
    return keywords


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuse what the client storage would refuse; nothing is opened or made.

    :param keywords: of the storage, by name; what is not there has its default.
    :raises ConfigurationError: it names the keyword.
    """
    from ..client.options import CACHE_SIZE, make_link_options, refuse_blobs, refuse_cache

    given = keywords.get
    storage = given("storage", "1")
    refuse_blobs(
        given("blob_dir"),
        given("shared_blob_dir", False),
        given("blob_cache_size"),
        given("blob_cache_size_check"),
    )
    refuse_cache(
        given("cache"),
        given("cache_size", CACHE_SIZE),
        given("client"),
        storage,
        given("var"),
        given("shared_cache", False),
    )
    make_link_options(
        addr=keywords["addr"],
        storage=storage,
        wait_timeout=given("wait_timeout"),
        read_only=given("read_only", False),
        read_only_fallback=given("read_only_fallback", False),
        min_disconnect_poll=given("min_disconnect_poll"),
        max_disconnect_poll=given("max_disconnect_poll"),
        ssl=given("ssl"),
        ssl_server_hostname=given("ssl_server_hostname"),
        drop_cache_rather_verify=given("drop_cache_rather_verify", False),
        database_behind=given("database_behind", "drop-cache"),
        dead_server_timeout=given("dead_server_timeout"),
        compression=given("compression"),
        username=given("username"),
        password=given("password"),
        password_file=given("password_file"),
        realm=given("realm"),
    )


def adopt(schema: Any) -> None:
    """Have *schema* open Zeolith's client for ``<zeoclient>``.

    The pauses between attempts to connect get no default there, so that ours holds: ZODB's are
    those of a client that is long gone.
    """
    section_type = schema.gettype("zeoclient")
    section_type.datatype = ZeoClient
    for _, info in section_type:
        if info.attribute in ("min_disconnect_poll", "max_disconnect_poll"):
            info._default = None
