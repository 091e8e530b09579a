"""The object store that speaks S3, against moto's server, and over a line that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.support.raw import oid_of
from tests.support.stores import BUCKET, BadLine, s3_store

from zeolith.errors import ConfigurationError
from zeolith.tier import s3
from zeolith.tier.failures import ObjectDamaged, ObjectMissing, StoreUnavailable
from zeolith.tier.objects import StoredObject, describe_file
from zeolith.tier.s3 import S3Store
from zeolith.tier.settings import StoreSettings

DATA = bytes(range(256)) * 2000


@pytest.fixture
def place(moto: int, tmp_path: Path) -> S3Store:
    """A store with a prefix that no other test has."""
    return s3_store(moto, tmp_path, f"{tmp_path.name}/", read_timeout=10)


@pytest.fixture
def line(moto: int) -> Iterator[BadLine]:
    with BadLine(moto) as found:
        yield found


def stored(store: S3Store, tmp_path: Path, data: bytes = DATA, number: int = 1) -> StoredObject:
    path = tmp_path / "source"
    path.write_bytes(data)
    found = describe_file(str(path), oid_of(number))
    store.put(found, str(path), {"oid": oid_of(number).hex()})
    return found


@pytest.mark.parametrize("size", [0, 1, 512_000])
def test_there_and_back(place: S3Store, tmp_path: Path, size: int) -> None:
    found = stored(place, tmp_path, DATA[:size])
    assert found.size == size
    place.get(found, str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == DATA[:size]
    (listed,) = place.list()
    assert listed.name == found.name
    assert -5 < listed.age < 60


def test_what_an_object_says_of_itself(place: S3Store, tmp_path: Path) -> None:
    found = stored(place, tmp_path)
    head = place._client.head_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{found.name}")
    assert head["Metadata"] == {
        "oid": oid_of(1).hex(), "sha256": found.sha256, "length": str(len(DATA))
    }  # fmt: skip
    assert found.name.startswith(oid_of(1).hex() + "/")


def test_large_ones_go_in_parts(
    place: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_SIZE", 5 * 1024 * 1024)  # the least that S3 takes
    data = bytes(11 * 1024 * 1024)
    found = stored(place, tmp_path, data)
    place.get(found, str(tmp_path / "target"))
    assert (tmp_path / "target").stat().st_size == len(data)
    head = place._client.head_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{found.name}")
    assert head["ETag"].endswith('-3"')


def test_lists_of_many_and_deletion(
    place: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {stored(place, tmp_path, b"x", number).name for number in range(7)}
    place.write_marker("mark")
    ask = place._client.list_objects_v2
    monkeypatch.setattr(place._client, "list_objects_v2", lambda **kw: ask(MaxKeys=3, **kw))
    monkeypatch.setattr(s3, "_MOST_DELETED", 2)
    assert {listed.name for listed in place.list()} == names
    place.delete([*names, "0000000000000000/gone"])
    assert list(place.list()) == []
    assert place.read_marker() == "mark"


def test_the_marker(place: S3Store) -> None:
    assert place.read_marker() is None
    place.write_marker("who")
    assert place.read_marker() == "who"
    place.write_marker("another")
    assert place.read_marker() == "who"


def test_the_marker_in_a_store_that_cannot_look_first(
    place: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = place._client.put_object

    def refuse(**arguments: Any) -> None:
        if "IfNoneMatch" in arguments:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")
        put(**arguments)

    monkeypatch.setattr(place._client, "put_object", refuse)
    place.write_marker("who")
    assert place.read_marker() == "who"


def test_what_is_missing_or_damaged(place: S3Store, tmp_path: Path) -> None:
    found = stored(place, tmp_path)
    key = f"{tmp_path.name}/{found.name}"
    for content, problem in (
        (DATA[:-1], f"{len(DATA) - 1} bytes instead of {len(DATA)}"),
        (DATA[:-1] + b"x", "its checksum differs"),
    ):
        place._client.put_object(Bucket=BUCKET, Key=key, Body=content)
        with pytest.raises(ObjectDamaged, match=problem):
            place.get(found, str(tmp_path / problem[:3]))
    place.delete([found.name])
    with pytest.raises(ObjectMissing, match="somebody has deleted it"):
        place.get(found, str(tmp_path / "target"))


def ways(store: S3Store, found: StoredObject, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """All that can be asked of a store."""
    source = tmp_path / "source"
    return {
        "store": lambda: store.put(found, str(source), {}),
        "fetch": lambda: store.get(found, str(tmp_path / f"x{time.monotonic_ns()}")),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete([found.name]),
        "read": store.read_marker,
        "write to": lambda: store.write_marker("x"),
    }


@pytest.mark.parametrize("mode", ["500", "503", "403", "refuse", "silent"])
def test_a_store_that_fails(
    line: BadLine, place: S3Store, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = stored(place, tmp_path)
    store = s3_store(line.port, tmp_path, f"{tmp_path.name}/", read_timeout=0.1)
    line.set(mode)
    caplog.set_level(logging.INFO)
    asked = ways(store, found, tmp_path)
    for what in ("store", "fetch") if mode == "silent" else tuple(asked):
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"^cannot {what} blobs: the object store") as it:
            asked[what]()
        assert time.monotonic() - start < 6
        # Neither its words nor the log tell a secret.
        assert "very-secret-key" not in str(it.value) + caplog.text
        assert "AKIATESTKEY" not in str(it.value)
    place.get(found, str(tmp_path / "target"))


def test_a_store_that_dies_in_the_middle_of_an_answer(
    line: BadLine, place: S3Store, tmp_path: Path
) -> None:
    found = stored(place, tmp_path)
    store = s3_store(line.port, tmp_path, f"{tmp_path.name}/", read_timeout=10)
    line.set("cut", 20_000)
    with pytest.raises(StoreUnavailable, match="cannot fetch blobs"):
        store.get(found, str(tmp_path / "target"))


def test_a_disk_that_fails_is_not_the_store(place: S3Store, tmp_path: Path) -> None:
    found = stored(place, tmp_path)
    with pytest.raises(FileNotFoundError):
        place.get(found, str(tmp_path / "missing" / "target"))
    (tmp_path / "source").unlink()
    with pytest.raises(OSError, match="source"):
        place.put(found, str(tmp_path / "source"), {})


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="profile"):
        S3Store(StoreSettings(bucket="b", region="x", profile="no-such-profile"))
