"""Imports point down, the protocol core stays pure, and importing does nothing.

The rooms and their order are those of ``docs/architecture.md``.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zeolith

ROOT = Path(zeolith.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

_BASE = frozenset({"types", "errors"})

MAY_IMPORT = {
    "types": frozenset[str](),
    "errors": frozenset[str](),
    "_callable": frozenset[str](),
    "rights": frozenset({"errors"}),
    "protocol": _BASE,
    "credentials": frozenset[str](),
    "aside": frozenset[str](),
    "cache": _BASE | {"protocol"},
    "client": _BASE | {"credentials", "protocol", "cache", "aside", "_callable", "__init__"},
    "tier": _BASE,
    "server": _BASE
    | {"credentials", "rights", "protocol", "tier", "aside", "_callable", "__init__"},
    "config": _BASE | {"credentials", "rights", "protocol", "client", "server", "tier"},
    "admin": _BASE
    | {"credentials", "rights", "protocol", "cache", "client", "config", "tier", "__init__"},
    "startup": _BASE | {"client"},
    "zope": frozenset({"startup"}),
    "migration": _BASE | {"config", "recipe"},
    "cli": _BASE
    | {"admin", "migration", "cache", "client", "credentials", "server", "config", "__init__"}
    | {"shortcuts", "standalone"},
    "recipe": _BASE | {"config", "cli"},
}
"""Room → the rooms beside itself that its modules may import.  What is not listed lives at the top
of the package, brings the rooms together and is imported by none of them."""

IMPURE = {
    *("asyncio", "concurrent", "gevent", "multiprocessing", "threading", "_thread", "uvloop"),
    *("select", "selectors", "socket", "socketserver", "ssl", "signal", "subprocess"),
    *("datetime", "sched", "time", "queue", "fcntl", "os", "pathlib", "tempfile"),
}
"""What the protocol core must not import: no socket, thread, clock, loop or file."""


def room_of(path: Path) -> str:
    """Return the room that the module at *path* belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the absolute name of everything that the module at *path* imports, wherever in it."""
    package = ["zeolith", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            parts = [*parts, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def rooms_imported_by(path: Path) -> set[str]:
    """Return the rooms of this package that the module at *path* imports from."""
    rooms = set()
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "zeolith":
            room = parts[1] if len(parts) > 1 else "__init__"
            is_module = (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file()
            rooms.add(room if is_module else "__init__")
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in MAY_IMPORT:
        assert rooms_imported_by(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "protocol").glob("*.py")), ids=lambda path: str(path.name)
)
def test_protocol_core_is_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE


def test_the_search_finds_imports() -> None:
    """The tests above can fail: they see what is there."""
    codec = set(imports_of(ROOT / "protocol" / "codec.py"))
    assert {
        "zeolith.errors.UndecodableMessage",
        "zeolith.protocol.pickles",
        "struct.Struct",
    } <= codec
    assert rooms_imported_by(ROOT / "protocol" / "codec.py") == {"errors", "protocol"}
    assert "socket" in {name.split(".")[0] for name in imports_of(ROOT / "client" / "wire.py")}
    assert {room_of(path) for path in MODULES} >= set(MAY_IMPORT)


# Runs in an interpreter of its own; reports what an import did.
_REPORT = """
import sys
effects = []
def watch(event, args):
    if event in ("_thread.start_new_thread", "socket.__new__", "os.fork", "subprocess.Popen"):
        effects.append(event)
sys.addaudithook(watch)
import json, logging
for name in {before!r}:
    __import__(name)
modules, effects[:] = set(sys.modules), []
handlers = [list(logging.root.handlers), logging.root.level]
exec({statement!r})
import threading
loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
print(json.dumps(dict(
    effects=effects,
    handlers=[repr(l) for l in loggers if any(
        type(handler) is not logging.NullHandler for handler in l.handlers
    ) and l.name.startswith("zeolith")],
    root_changed=handlers != [list(logging.root.handlers), logging.root.level],
    threads=threading.active_count(),
    modules=sorted({{name.split(".")[0] for name in set(sys.modules) - modules}}
        | {{name for name in set(sys.modules) - modules if name.startswith("zeolith.")}}),
)))
"""


def modules_of(statement: str, before: tuple[str, ...] = ()) -> set[str]:
    """Return the modules that *statement* brings to a fresh interpreter with *before* imported.

    Asserts that it has no other effect.
    """
    script = _REPORT.format(statement=statement, before=before)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert not result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["effects"] == []
    assert report["handlers"] == []
    assert not report["root_changed"]
    assert report["threads"] == 1
    return set(report["modules"])


def test_importing_the_package_does_nothing() -> None:
    modules = modules_of("import zeolith")
    assert not modules & {"asyncio", "uvloop", "ssl", "socket", "ZODB", "msgpack"}
    assert {name for name in modules if name.startswith("zeolith.")} == set()


def test_importing_the_protocol_core_brings_no_network() -> None:
    """Whatever ZODB's own exceptions bring is there before."""
    statement = "import zeolith.protocol.peers, zeolith.protocol.faults"
    # msgpack brings datetime, for its time stamps; the standard library's pickle brings os.
    modules = modules_of(statement, before=("ZODB.POSException",))
    assert not modules & {"asyncio", "uvloop", "ssl", "socket", "select", "selectors", "subprocess"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import zeolith; zeolith.ClientStorage", {"asyncio", "uvloop", "zeolith.server"}),
        ("import zeolith; zeolith.client, zeolith.DB", {"asyncio", "uvloop", "zeolith.server"}),
        ("import zeolith.server.server", {"uvloop", "zeolith.client"}),
    ],
)
def test_each_side_comes_without_the_other_and_without_effects(
    statement: str, unwanted: set[str]
) -> None:
    assert not modules_of(statement) & unwanted
