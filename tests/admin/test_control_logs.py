"""What a real server logs, read by a program."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import transaction
from tests.support.controlled import Controlled
from tests.support.raw import connect
from ZODB.Connection import TransactionMetaData

import zeolith

LABEL = "shop-7"


@pytest.fixture
def site() -> Iterator[Controlled]:
    site = Controlled()
    yield site
    site.close()


def eventlog(path: str, *lines: str) -> str:
    more = "\n".join(lines)
    return (
        f"<eventlog>\nlevel debug\n<logfile>\npath {path}\n"
        f"formatter zeolith.config.logs.JsonFormatter\n{more}\n</logfile>\n</eventlog>\n"
    )


def work(site: Controlled) -> None:
    """Do as a client what servers log: connect, commit, conflict, leave in a transaction."""
    with (
        closing(zeolith.DB(site.address, client_label=LABEL)) as db,
        db.transaction() as connection,
    ):
        connection.root()["x"] = 1
    storage = zeolith.ClientStorage(site.address, client_label=LABEL)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(b"\0" * 8, b"\0" * 8, b"\x80\x03.", "", meta)
    try:
        storage.tpc_vote(meta)
    except transaction.interfaces.TransientError:
        pass  # the conflict that is wanted
    storage.close()


def test_each_line_on_standard_output_is_an_object(site: Controlled) -> None:
    site.write_conf(eventlog=eventlog("STDOUT"))
    process = site.popen("fg")
    out = process.stdout
    assert out is not None
    lines: list[dict[str, Any]] = []
    while not lines or "serving" not in lines[-1]["message"]:
        lines.append(json.loads(out.readline()))
    work(site)
    with connect(site.address) as sock:
        sock.sendall(b"\0\0\0\4nope")
        assert sock.recv(1000)
        while sock.recv(1000):
            pass
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    lines += [json.loads(line) for line in out.read().splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message", "process"} <= set(line), line
        assert line["process"] == process.pid
    assert any(line["level"] == "WARNING" and "client" in line for line in lines)


def test_each_line_about_a_client_names_it(site: Controlled) -> None:
    path = site.directory / "log" / "zeo.log"
    site.write_conf(eventlog=eventlog(str(path)))
    site.run("start")
    work(site)
    site.run("stop")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    mine = [line for line in lines if LABEL in line.get("client", "")]
    assert len(mine) >= 4
    for line in mine:
        assert line["client"].startswith(f"{LABEL} 127.0.0.1:")
        assert LABEL not in line["message"]
    said = " ".join(line["message"] for line in mine)
    assert "conflict" in said
    # A session's lines are all about its client.
    for line in lines:
        if line["logger"] in ("zeolith.server.session", "zeolith.server.reading"):
            assert "client" in line, line


def test_objects_survive_rotation_by_size(site: Controlled) -> None:
    path = site.directory / "log" / "zeo.log"
    site.write_conf(eventlog=eventlog(str(path), "max-size 3KB", "old-files 50"))
    site.run("start")
    for _ in range(5):
        work(site)
    site.run("stop")
    files = list(path.parent.glob("zeo.log*"))
    assert len(files) > 2
    for file in files:
        for line in file.read_text().splitlines():
            json.loads(line)


def test_a_formatter_that_is_none_is_refused(site: Controlled) -> None:
    site.write_conf(eventlog=eventlog("STDOUT").replace("JsonFormatter", "NoFormatter"))
    assert "NoFormatter" in site.run("start", status=2)
    assert site.field("manager") is None
