"""The examples of ``docs/changes.md`` do what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ZODB.MappingStorage import MappingStorage

from tests.support.processes import running_server
from tests.support.raw import RawClient, oid_of
from zeolith.errors import ServerRefused

DOCUMENT = Path(__file__).parents[2] / "docs" / "changes.md"
Z64 = bytes(8)


class Enough(Exception):
    """The test has seen what it came for."""


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


def test_the_first_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import zeolith

    with running_server(MappingStorage()) as server, RawClient(server.address) as writer:
        tid = writer.commit({oid_of(7): (Z64, b"x")})
        follow = zeolith.changes
        monkeypatch.setattr(
            zeolith, "changes", lambda port: follow(server.address, bytes(8), wait=False)
        )
        exec(examples()[0], {})
    assert capsys.readouterr().out == f"{tid.hex()} 1 objects\n"


def test_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(examples()[1], names)
    seen: list[tuple[bytes, ...]] = []
    rebuilt: list[bool] = []

    def update(oids: tuple[bytes, ...]) -> None:
        seen.append(oids)
        if len(seen) % 2 == 0:
            raise Enough

    def run(address: Any) -> None:
        names["run"](address, update, lambda: rebuilt.append(True))

    with running_server(MappingStorage()) as server, RawClient(server.address) as writer:
        tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(4)]
        for _ in range(2):
            with pytest.raises(Enough):
                run(server.address)
        # What was not noted is done again, nothing is left out.
        assert seen == [(oid_of(number),) for number in (0, 1, 1, 2)]
        tid, database = json.loads(Path("index.json").read_text())
        assert tid == tids[1].hex()
        assert database[1] == 1
    assert rebuilt == []
    with running_server(MappingStorage()) as server, RawClient(server.address) as writer:
        writer.commit({oid_of(9): (Z64, b"another database")})
        run(server.address)
        assert rebuilt == [True]
        assert not Path("index.json").exists()


def test_a_server_that_refuses_is_not_asked_as_fast_as_it_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as one that is started anew with another certificate."""
    import zeolith

    class Refused:
        asked = 0

        def __enter__(self) -> Refused:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def __iter__(self) -> Refused:
            return self

        def __next__(self) -> Any:
            self.asked += 1
            if self.asked > 1:
                raise Enough
            raise ServerRefused("server", "no")

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(examples()[1], names)
    monkeypatch.setattr(zeolith, "changes", lambda *args, **keywords: Refused())
    with pytest.raises(ServerRefused):
        names["run"](8100, print, print)
