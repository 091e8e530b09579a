"""E: hostile sessions against server and client: a while of what `make fuzz` does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import fuzz_client, fuzz_server, sessions

from zeolith.client.channel import Channel
from zeolith.server import reading, uploads
from zeolith.server.handlers import HANDLERS
from zeolith.server.session import Session
from zeolith.server.uploads import Uploads


class Calm(random.Random):
    """Changes nothing, and lets the work end."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
def server() -> Iterator[fuzz_server.Fuzzer]:
    with fuzz_server.Fuzzer() as fuzzer:
        yield fuzzer


def run(directory: Path, check: Any, seconds: str = "1", seed: str = "1") -> int:
    """Run a fuzzer as its program does; return the exit status."""
    return sessions.main(["fuzz", seconds, seed], "it", directory, check)


# -- the server ----------------------------------------------------------------------------------


def test_e_the_server_holds_for_a_while(server: fuzz_server.Fuzzer) -> None:
    assert run(fuzz_server.DIRECTORY, server.check, "3") == 0


def test_what_is_recorded_for_the_server_is_in_the_corpus() -> None:
    corpus = sessions.load(fuzz_server.DIRECTORY)
    for name, session in fuzz_server.recorded().items():
        assert corpus[name] == session, f"{name}: python -m fuzz.fuzz_server --record"


@pytest.mark.parametrize("name", ["commit", "blob"])
@pytest.mark.parametrize("coding", ["pickle", "msgpack", "own"])
def test_the_recorded_sessions_get_through(
    server: fuzz_server.Fuzzer, coding: str, name: str
) -> None:
    """Mutations of what is refused at once would find nothing."""
    bench = server.bench
    server.check(sessions.load(fuzz_server.DIRECTORY)[f"{coding}-{name}"], Calm(1))
    assert bench.service.stats.commits == 1


def broken_handler(session: Session, msgid: Any, request: Any) -> None:
    raise AttributeError("a defect")


def test_a_defect_of_the_server_is_found_and_kept(
    server: fuzz_server.Fuzzer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = next(cls for cls, handler in HANDLERS.items() if handler is reading.history)
    monkeypatch.setitem(HANDLERS, request, broken_handler)
    monkeypatch.setattr(fuzz_server, "DIRECTORY", tmp_path)
    assert fuzz_server.main(["fuzz", "--record"]) == 0
    assert run(tmp_path, server.check) == 1
    (found,) = tmp_path.glob("found-*.hex")
    assert "a defect" in found.read_text()


def test_what_stays_behind_is_found(
    server: fuzz_server.Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = sessions.load(fuzz_server.DIRECTORY)
    monkeypatch.setattr(Uploads, "close", lambda self: None)
    monkeypatch.setattr(uploads, "SHORT", 0)  # each upload has a file from its first byte on
    with pytest.raises(fuzz_server.Broken, match="files are left"):
        # Cut off in the middle of an upload.
        server.check(corpus["own-blob"][:5], Calm(1))


# -- the client ----------------------------------------------------------------------------------


def test_e_the_client_holds_for_a_while() -> None:
    assert run(fuzz_client.DIRECTORY, fuzz_client.check, "2") == 0


def test_what_is_recorded_for_the_client_is_in_the_corpus() -> None:
    corpus = sessions.load(fuzz_client.DIRECTORY)
    for name, session in fuzz_client.recorded().items():
        assert corpus[name] == session, f"{name}: python -m fuzz.fuzz_client --record"


@pytest.mark.parametrize("coding", ["pickle", "msgpack"])
def test_a_client_takes_the_recorded_answers(coding: str) -> None:
    corpus = sessions.load(fuzz_client.DIRECTORY)
    assert fuzz_client.check(corpus[f"{coding}-all"], Calm(1)) == []
    (error,) = fuzz_client.check(corpus[f"{coding}-fault"], Calm(1))
    assert isinstance(error, KeyError)


def test_e_an_answer_to_a_load_that_is_none() -> None:
    """Found by the fuzzer: it reached the cache, and the application as a TypeError."""
    session = sessions.load(fuzz_client.DIRECTORY)["an-answer-to-a-load-that-is-none"]
    error = fuzz_client.check(session, Calm(1))[-1]
    assert "the answer to a load is no revision" in str(error)


def test_a_defect_of_the_client_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(self: Channel, request: Any, on_reply: Any = None) -> Any:
        raise IndexError("a defect")

    monkeypatch.setattr(Channel, "call", broken)
    monkeypatch.setattr(fuzz_client, "DIRECTORY", tmp_path)
    assert fuzz_client.main(["fuzz", "--record"]) == 0
    assert fuzz_client.main(["fuzz", "1", "1"]) == 1
    assert len([*tmp_path.glob("found-*.hex")]) == 1
