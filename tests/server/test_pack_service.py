"""Packing as clients and administrators see it: one at a time, described, and safe at the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.packing import Contents, debris, resume, stop_at
from tests.support.raw import Z64, RemoteFault, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.admin.asking import Refused, Target, ask_zeolith
from zeolith.admin.status import fetch_status
from zeolith.protocol import messages as m
from zeolith.protocol.inquiry import EstimateInquiry
from zeolith.server import packprocess


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return Contents(tmp_path)


@pytest.fixture
def storage(contents: Contents, tmp_path: Path) -> Any:
    return FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))


def packing_of(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = fetch_status(Target(server.address), "1").storages["1"]["packing"]
    return found


def test_a_pack_is_described(
    contents: Contents,
    storage: Any,
    serve: Serve,
    raw: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "record", mark)
    server = serve(storage)
    client = raw(server.address)
    before = packing_of(server)
    assert (before["is_running"], before["last"]) == (False, None)
    size = os.stat(tmp_path / "Data.fs").st_size
    assert before["disk"]["needed"] == size
    assert before["disk"]["free"] > 0
    answer = client.ask(m.Pack(contents.end, True))
    wait_until(mark.exists)
    during = packing_of(server)
    assert during["is_running"]
    assert during["what"] == "pack"
    assert during["phase"] == "copy"
    assert 0.5 < during["fraction"] < 1
    assert abs(during["started"] - time.time()) < 60
    # The second is refused, and so is an estimate.
    with pytest.raises(RemoteFault, match="a pack of storage '1' is already running"):
        raw(server.address).call(m.Pack(contents.end, True))
    with pytest.raises(Refused, match="already running"):
        ask_zeolith(Target(server.address), EstimateInquiry("1", contents.end))
    resume(int(mark.read_text()))
    client.answer(answer)
    after = packing_of(server)
    assert not after["is_running"]
    last = after["last"]
    assert (last["what"], last["error"], last["before"]) == ("pack", None, size)
    assert last["after"] == os.stat(tmp_path / "Data.fs").st_size < size
    assert debris(tmp_path) == []
    # What the pack before has kept is removed first, so it counts as free.
    facts = os.statvfs(tmp_path)  # looked at once: others use the disk too
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    old = os.stat(tmp_path / "Data.fs.old").st_blocks * 512
    assert packing_of(server)["disk"]["free"] == facts.f_bavail * facts.f_frsize + old


def test_an_estimate_is_found_in_the_status(
    contents: Contents, storage: Any, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    server = serve(storage)
    assert ask_zeolith(Target(server.address), EstimateInquiry("1", contents.end)) == {
        "started": True
    }
    last = wait_until(lambda: packing_of(server)["last"])
    assert (last["what"], last["error"]) == ("estimate", None)
    raw(server.address).call(m.Pack(contents.end, True))
    assert last["after"] == os.stat(tmp_path / "Data.fs").st_size
    assert packing_of(server)["last"]["what"] == "pack"


def test_there_is_no_estimate_for_storages_without_a_file(serve: Serve) -> None:
    server = serve(MappingStorage())
    with pytest.raises(Refused, match="is no FileStorage"):
        ask_zeolith(Target(server.address), EstimateInquiry("1", time.time()))
    assert "disk" not in packing_of(server)


def test_a_pack_that_fails_is_remembered(
    contents: Contents,
    storage: Any,
    serve: Serve,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", _FAILING))
    server = serve(storage)
    with pytest.raises(RemoteFault, match="packing failed: ZeroDivisionError"):
        raw(server.address).call(m.Pack(contents.end, True))
    assert "ZeroDivisionError" in packing_of(server)["last"]["error"]


_FAILING = """
import sys
from zeolith.server import packchild
def fail(*arguments):
    raise ZeroDivisionError("a defect")
packchild.Packer = fail
sys.exit(packchild.main(int(sys.argv[1])))
"""


def test_a_storage_whose_file_was_replaced_leaves_service(
    contents: Contents,
    storage: Any,
    serve: Serve,
    raw: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Class D of the known failures: commits into a file that has lost its name are lost."""
    other = FileStorage(str(tmp_path / "other.fs"))
    server = serve({"1": storage, "other": other})
    shutil.copy(tmp_path / "Data.fs", tmp_path / "copy")
    os.replace(tmp_path / "copy", tmp_path / "Data.fs")
    with pytest.raises(RemoteFault, match="not the one that has this name"):
        raw(server.address).call(m.Pack(contents.end, True))
    wait_until(lambda: fetch_status(Target(server.address), "1").outages)
    with pytest.raises(RemoteFault, match="out of service"):
        raw(server.address)
    assert "takes no transactions any more" in caplog.text
    raw(server.address, "other")


def test_r4_how_far_the_database_went_is_recorded_before_a_pack_removes_anything(
    contents: Contents,
    storage: Any,
    serve: Serve,
    raw: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction that is packed away wholly is not taken for one that never was, after a kill:
    the database has another epoch then, and nobody is told what became of it."""
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "record", mark)
    client = raw(serve(storage).address)
    tid = client.commit({oid_of(1_000): (Z64, b"garbage")})
    answer = client.ask(m.Pack(contents.end, True))
    wait_until(mark.exists)
    recorded = json.loads((tmp_path / "Data.fs.zeolith").read_text())
    resume(int(mark.read_text()))
    client.answer(answer)
    assert recorded["tid"] == tid.hex()
