"""What would change for a ``zope.conf``."""

from __future__ import annotations

from pathlib import Path

import pytest
import ZODB.config

from zeolith.errors import ConfigurationError
from zeolith.migration.check import check_migration
from zeolith.migration.remarks import Effect, Remarks

HEAD = "%import zeolith.zope\n%define INSTANCE /opt/zope\ninstancehome $INSTANCE\n"
BODY = "<zodb_db main>\n  mount-point /\n  {}\n</zodb_db>\n"


def check(tmp_path: Path, storage: str, head: str = HEAD) -> Remarks:
    path = tmp_path / "etc" / "zope.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + BODY.format(storage))
    return check_migration(str(path))


def section(kind: str, *lines: str) -> str:
    return "\n".join([f"<{kind}>", "server 127.0.0.1:8100", *lines, f"</{kind}>"])


def subjects(remarks: Remarks, effect: Effect) -> list[str]:
    return [remark.subject for remark in remarks.of(effect)]


@pytest.mark.parametrize(
    "storage",
    ["<filestorage>\npath $INSTANCE/var/Data.fs\n</filestorage>", section("zeolith"), "<x/>"],
)
def test_a_file_for_which_nothing_changes(tmp_path: Path, storage: str) -> None:
    remarks = check(tmp_path, storage)
    assert remarks.kind == "zope.conf"
    assert remarks.remarks == []


def test_zodbs_section(tmp_path: Path) -> None:
    remarks = check(tmp_path, section("zeoclient"))
    (remark,) = remarks.remarks
    assert (remark.effect, remark.subject, remark.place.line) == (
        *(Effect.REFUSED, "<zeoclient>", 6),
    )
    assert "<zeolith>" in remark.remedy
    assert "zeolith-zeo" in remark.remedy


def test_zeos_import(tmp_path: Path) -> None:
    remarks = check(tmp_path, section("clientstorage"), f"%import ZEO\n{HEAD}")
    assert subjects(remarks, Effect.REFUSED) == ["%import ZEO"]
    assert remarks.of(Effect.REFUSED)[0].place.line == 1
    assert (
        check(tmp_path, section("clientstorage"), f"%import zeolith\n{HEAD}").of(Effect.REFUSED)
        == []
    )


@pytest.mark.parametrize(
    ("lines", "effect", "subject"),
    [
        (["min-disconnect-poll 5"], Effect.CHANGED, "min-disconnect-poll"),
        (["max-disconnect-poll 300"], Effect.CHANGED, "max-disconnect-poll"),
        (["drop-cache-rather-verify on"], Effect.CHANGED, "drop-cache-rather-verify"),
        (["drop-cache-rather-verify off"], Effect.CHANGED, None),
        (["username a", "password b"], Effect.CHANGED, "username"),
        (["username a", "password b", "realm c"], Effect.CHANGED, "realm"),
        (["client zope1"], Effect.CHANGED, "client"),
        (["Client zope1"], Effect.CHANGED, "client"),
        (["username a"], Effect.REFUSED, "username"),
        (["password a"], Effect.REFUSED, "password"),
        (["realm a"], Effect.REFUSED, "realm"),
        (["blob-cache-size-check 20"], Effect.REFUSED, "blob-cache-size-check"),
        (
            ["blob-dir b", "shared-blob-dir yes", "blob-cache-size 10MB"],
            Effect.REFUSED,
            "blob-cache-size",
        ),
        (["blob-dir b", "blob-cache-size 10MB"], Effect.REFUSED, None),
        (["wait off", "storage main", "cache-size 50MB"], Effect.CHANGED, None),
    ],
)
def test_a_key(tmp_path: Path, lines: list[str], effect: Effect, subject: str | None) -> None:
    remarks = check(tmp_path, section("zeoclient", *lines))
    found = [one for one in subjects(remarks, effect) if one != "<zeoclient>"]
    assert (subject in found) if subject else not found


@pytest.mark.parametrize(
    "lines",
    [
        ["username a"],
        ["password a"],
        ["realm a"],
        ["blob-cache-size-check 20"],
        ["shared-blob-dir yes", "blob-cache-size 10MB"],
    ],
)
def test_what_is_said_to_be_refused_is_refused(tmp_path: Path, lines: list[str]) -> None:
    blobs = [f"blob-dir {tmp_path}/blobs"]
    text = "%import zeolith\n" + section("zeolith", "wait off", *blobs, *lines)
    with pytest.raises(Exception, match=lines[-1].split()[0]):
        ZODB.config.storageFromString(text).close()
    refused = subjects(check(tmp_path, section("zeoclient", *blobs, *lines)), Effect.REFUSED)
    assert refused == ["<zeoclient>", lines[-1].split()[0]]


def test_the_first_start(tmp_path: Path) -> None:
    remarks = check(tmp_path, section("zeoclient"), "instancehome /opt/zope\n")
    assert subjects(remarks, Effect.HINT) == ["%import zeolith.zope"]


def test_a_module_of_the_first_document(tmp_path: Path) -> None:
    (tmp_path / "custom_zodb.py").write_text("from ZEO.ClientStorage import ClientStorage\n")
    remarks = check(tmp_path, "<mappingstorage/>", "")
    assert [remark.place.file for remark in remarks.of(Effect.HINT)] == [
        *(str(tmp_path / "etc" / "zope.conf"), str(tmp_path / "custom_zodb.py")),
    ]


@pytest.mark.parametrize("key", ["zeo-client-name zope1", "enable-product-installation off"])
def test_keys_that_zope_has_given_up(tmp_path: Path, key: str) -> None:
    remarks = check(tmp_path, "<mappingstorage/>", f"{key}\n{HEAD}")
    assert subjects(remarks, Effect.REFUSED) == [key.split()[0]]


@pytest.mark.parametrize("name", ["$INSTANCE/more.conf", "https://example.org/more.conf"])
def test_what_is_included_from_elsewhere(tmp_path: Path, name: str) -> None:
    remarks = check(tmp_path, section("zeoclient"), f"%include {name}\n{HEAD}")
    assert subjects(remarks, Effect.REFUSED) == ["<zeoclient>"]
    (hint,) = remarks.of(Effect.HINT)
    assert hint.place.line == 1
    assert hint.text == f"{name} was not read here"


def test_files_that_are_included(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "more.conf").write_text(f"\n{section('zeoclient')}\n")
    (remark,) = check(tmp_path, "%include more.conf").of(Effect.REFUSED)
    assert (Path(remark.place.file).name, remark.place.line) == ("more.conf", 2)


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ("<zeoclient>", "</zodb_db> ends nothing"),
        ("</zeoclient>", "</zeoclient> ends nothing"),
        ("<zeoclient", "is no section"),
        ("%include missing.conf", "cannot be read"),
        ("%include zope.conf", "which includes it"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, storage: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        check(tmp_path, storage)
    assert caught.value.remedy
    assert "zope.conf" in str(caught.value) or "missing.conf" in str(caught.value)


def test_sections_without_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 104: is within more than 100 sections"):
        check(tmp_path, "<a>\n" * 100_000)


def test_files_without_number(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for number in range(40):
        path = tmp_path / "etc" / f"{number}.conf"
        path.write_text(f"%include {number + 1}.conf\n")
    with pytest.raises(ConfigurationError, match=r"31\.conf: is included through more than 32"):
        check(tmp_path, "%include 0.conf")


def test_a_section_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "zope.conf"
    path.write_text("<zodb_db main>\n")
    with pytest.raises(ConfigurationError, match="line 1: <zodb_db> does not end"):
        check_migration(str(path))
