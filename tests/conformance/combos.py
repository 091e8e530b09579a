"""What the suites are run against: who talks to whom, over what, in front of which storage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from tests.support.hosts import Kind

Loop: TypeAlias = Literal["uvloop", "asyncio"]


class Backend(NamedTuple):
    """A storage behind a server.

    :ivar name: part of test names.
    :ivar config: ZConfig text; ``{directory}`` is replaced.
    :ivar has_history: it keeps old revisions in a form that can be undone.
    :ivar has_blobs: it stores blobs.
    :ivar is_shared: client and server use one blob directory.
    :ivar blob_cache_size: bytes of blobs that a client keeps; None: without limit.
    :ivar is_client_hex: the client storage is wrapped in a hexstorage.
    """

    name: str
    config: str
    has_history: bool = True
    has_blobs: bool = False
    is_shared: bool = False
    is_client_hex: bool = False
    blob_cache_size: int | None = None


_FILE = "<filestorage>\n path {directory}/Data.fs\n</filestorage>"
_BLOBS = "<blobstorage>\n blob-dir {directory}/server-blobs\n" + _FILE + "\n</blobstorage>"

MAPPING = Backend("Mapping", "<mappingstorage/>", has_history=False)
FILE = Backend("File", _FILE)
BLOBS = Backend(
    "Blobs",
    "<filestorage>\n path {directory}/Data.fs\n blob-dir {directory}/server-blobs\n</filestorage>",
    has_blobs=True,
)
SHARED = Backend("SharedBlobs", _BLOBS, has_blobs=True, is_shared=True)
BOUNDED = BLOBS._replace(name="BoundedBlobs", blob_cache_size=1000)
"""Room for some of the suites' blobs.  Not less: one of them reads a blob of a storage that it has
closed."""
HEX = Backend("Hex", "%import ZODB.tests\n<hexstorage>\n" + _FILE + "\n</hexstorage>")
CLIENT_HEX = Backend(
    "ClientHex",
    "%import ZODB.tests\n<serverhexstorage>\n" + _FILE + "\n</serverhexstorage>",
    is_client_hex=True,
)

BACKENDS = (BLOBS, SHARED, FILE, MAPPING, HEX, CLIENT_HEX)


class Combo(NamedTuple):
    """One way to put a client in front of a storage.

    :ivar client: whose client storage.
    :ivar server: whose server.
    :ivar is_msgpack: ``M5`` instead of ``Z5``.
    :ivar loop: the event loop of a Zeolith server.
    :ivar is_own: Zeolith's own protocol instead of either, as it is between Zeolith peers that
        nobody interferes with.
    """

    client: Kind
    server: Kind
    backend: Backend
    is_msgpack: bool
    loop: Loop
    is_own: bool = False

    @property
    def name(self) -> str:
        """A Python identifier that tells this combination from all others."""
        short = {"zeolith": "Zeolith", "zeo": "Zeo"}
        coding = "Own" if self.is_own else "M5" if self.is_msgpack else "Z5"
        loop = f"_{self.loop}" if self.server == "zeolith" else ""
        return f"{short[self.client]}To{short[self.server]}_{self.backend.name}_{coding}{loop}"


PAIRINGS: tuple[tuple[Kind, Kind], ...] = (
    ("zeolith", "zeolith"),
    ("zeo", "zeolith"),
    ("zeolith", "zeo"),
)
"""(client, server); ZEO with ZEO would test somebody else's work."""


def all_combos() -> Iterator[Combo]:
    """Every combination there is."""
    for (client, server), backend, is_msgpack in itertools.product(
        PAIRINGS, BACKENDS, (False, True)
    ):
        # ZEO's server takes uvloop whenever it is installed: there is nothing to choose.
        loops: tuple[Loop, ...] = ("uvloop", "asyncio") if server == "zeolith" else ("uvloop",)
        for loop in loops:
            yield Combo(client, server, backend, is_msgpack, loop)
            if client == server == "zeolith" and not is_msgpack:
                yield Combo(client, server, backend, is_msgpack, loop, is_own=True)


def blob_combos() -> Iterator[Combo]:
    """Every combination with blobs, in all three modes: shared, not shared, and that with a limit
    of what is kept."""
    for combo in all_combos():
        if combo.backend.has_blobs:
            yield combo
        if combo.backend is BLOBS:
            yield combo._replace(backend=BOUNDED)


CONTROL = Combo("zeo", "zeo", BLOBS, False, "uvloop")
"""ZEO on both sides: a test that fails here too has found a fault of the harness."""

DEFAULT = frozenset(
    {
        Combo("zeolith", "zeolith", BLOBS, False, "uvloop"),
        Combo("zeolith", "zeolith", BLOBS, False, "uvloop", is_own=True),
        Combo("zeolith", "zeolith", FILE, False, "asyncio", is_own=True),
        Combo("zeolith", "zeolith", MAPPING, False, "uvloop", is_own=True),
        Combo("zeolith", "zeolith", SHARED, True, "asyncio"),
        Combo("zeolith", "zeolith", MAPPING, True, "uvloop"),
        Combo("zeo", "zeolith", BLOBS, True, "asyncio"),
        Combo("zeo", "zeolith", FILE, False, "uvloop"),
        Combo("zeo", "zeolith", MAPPING, False, "asyncio"),
        Combo("zeolith", "zeolith", HEX, False, "asyncio"),
        Combo("zeolith", "zeo", HEX, True, "uvloop"),
        Combo("zeolith", "zeo", FILE, False, "uvloop"),
    }
)
"""What a plain test run covers: every pairing with all its codings, both loops, every backend that
differs in kind.  The others run with the marker ``long``."""
