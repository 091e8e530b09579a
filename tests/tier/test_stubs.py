"""Stubs: what they say, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zeolith.tier.objects import StoredObject
from zeolith.tier.stubs import read_stub, stub_of, write_stub

FOUND = StoredObject("0000000000000001/040d284fb1c9e3dd-0123456789ab", 1234, "01234567" * 8)


def test_there_and_back(tmp_path: Path) -> None:
    path = stub_of(str(tmp_path / "0x01.blob"))
    assert path == str(tmp_path / "0x01.cold")
    assert read_stub(path) is None
    write_stub(path, FOUND)
    assert read_stub(path) == FOUND
    later = FOUND._replace(size=7)
    write_stub(path, later)
    assert read_stub(path) == later
    assert [entry.name for entry in tmp_path.iterdir()] == ["0x01.cold"]


def test_one_that_is_cut_off_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "0x01.cold"
    write_stub(str(path), FOUND)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read_stub(str(path)) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"name": "../../../etc/passwd"},
        {"name": FOUND.name + "\n"},
        {"name": 1},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"sha256": "x" * 64},
        {"sha256": None},
    ],
    ids=lambda content: ascii(content)[:40],
)
def test_what_is_none(tmp_path: Path, content: object) -> None:
    path = tmp_path / "0x01.cold"
    if isinstance(content, dict) and content:
        content = {**FOUND._asdict(), **content}
    path.write_text(json.dumps(content))
    assert read_stub(str(path)) is None
