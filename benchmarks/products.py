"""What is measured: clients, servers and how one of each makes a contender."""

from __future__ import annotations

import ssl
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from zeolith.admin.certstore import CertificateStore

Address: TypeAlias = tuple[str, int]

SERVERS: Final = ("zeo", "zeolith", "bare", "none")
"""``bare`` is :mod:`.bare`'s socket server; ``none`` means that the client opens the file."""

CLIENTS: Final = ("zeo", "zeolith", "bare", "file")

CONNECT_TIMEOUT: Final = 20.0


class Contender(NamedTuple):
    """One client product talking to one server product."""

    client: str
    server: str

    def __str__(self) -> str:
        if self.client == self.server:
            return self.client
        if self.server == "none":
            return self.client
        return f"{self.client}:{self.server}"


BARE: Final = Contender("bare", "bare")
"""A blocking socket in front of a FileStorage: the floor of anything that asks a server."""

FILE: Final = Contender("file", "none")
"""A FileStorage in the client's own process: the floor of anything that the storage does."""


def parse_contender(text: str) -> Contender:
    """Return the contender that ``product`` or ``client:server`` names.

    :raises ValueError: an unknown product.
    """
    client, _, server = text.partition(":")
    contender = Contender(client, server or client)
    if contender.client not in CLIENTS or contender.server not in SERVERS:
        raise ValueError(f"{text!r}: expected zeo, zeolith or client:server")
    return contender


def open_storage(
    client: str,
    address: Address,
    data: Path,
    cache_size: int,
    certificates: Path | None = None,
    blob_dir: str | None = None,
) -> Any:
    """Return a storage of the product *client*, connected.

    :param address: the server's.
    :param data: the database file, for the client that needs no server.
    :param cache_size: in bytes.
    :param certificates: directory of :func:`make_certificates`; None: no TLS.
    :param blob_dir: folder for a blob cache of its own; None: no blobs.  The client that needs no
        server has its blobs beside the file.
    """
    if client == "file":
        blobs = None if blob_dir is None else str(data.with_name("blobs"))
        return import_module("ZODB.FileStorage").FileStorage(str(data), blob_dir=blobs)
    if client == "bare":
        return import_module("benchmarks.bare").BareClient(address)
    module = import_module("ZEO.ClientStorage" if client == "zeo" else "zeolith")
    context = None
    if certificates is not None:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.load_cert_chain(str(certificates / "client-bench.pem"))
    return module.ClientStorage(
        address,
        cache_size=cache_size,
        wait_timeout=CONNECT_TIMEOUT,
        ssl=context,
        blob_dir=blob_dir,
    )


def make_certificates(directory: Path) -> None:
    """Make certificates for server and client, which both products take."""
    store = CertificateStore(directory)
    list(store.make(["127.0.0.1"], ["bench"], days=2, ca_days=2, title="benchmarks"))


def server_arguments(
    server: str,
    address: Address,
    data: Path,
    certificates: Path | None = None,
    blob_dir: Path | None = None,
) -> tuple[str, list[str]]:
    """Return the module to run as ``__main__``, and its command line, for the product *server*.

    :param certificates: directory of :func:`make_certificates`; None: no TLS.
    :param blob_dir: folder for the blobs that are served; None: no blobs.
    """
    where = "{}:{}".format(*address)
    if certificates is not None or blob_dir is not None:
        conf = data.with_suffix(".conf")
        encryption = blobs = ""
        if certificates is not None:
            encryption = (
                f"  <ssl>\n    certificate {certificates}/server.pem\n"
                f"    authenticate {certificates}/ca.pem\n  </ssl>\n"
            )
        if blob_dir is not None:
            blobs = f"  blob-dir {blob_dir}\n"
        conf.write_text(
            f"<zeo>\n  address {where}\n{encryption}</zeo>\n"
            f"<filestorage 1>\n  path {data}\n{blobs}</filestorage>\n"
        )
        module, command = ("ZEO.runzeo", []) if server == "zeo" else ("zeolith", ["serve"])
        return module, [*command, "-C", str(conf)]
    if server == "zeo":
        return "ZEO.runzeo", ["-a", where, "-f", str(data)]
    if server == "zeolith":
        return "zeolith", ["serve", "-a", where, "-f", str(data)]
    return "benchmarks.bare", [where, str(data)]
