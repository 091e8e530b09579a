"""``zeolith migrate-check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zeolith.cli.main import main
from zeolith.migration.reading import MAX_SIZE


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("<zodb_db main>\n</zodb_db>\n", 0, "taken for a zope.conf: nothing would change"),
        ("<zeo>\naddress *:8100\n</zeo>\n<mappingstorage 1/>\n", 1, "zeo.conf: 5 different"),
        ("<zodb_db main>\n<zeoclient>\n</zeoclient>\n</zodb_db>\n", 2, "1 to be changed"),
        ("[a]\nrecipe = plone.recipe.zeoserver\n", 2, "buildout.cfg: 1 to be changed, 5 different"),
    ],
)
def test_what_it_prints_and_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, status: int, words: str
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert main(["migrate-check", str(path)]) == status
    assert capsys.readouterr().out.splitlines()[-1].endswith(words)


def test_each_remark_has_its_place_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "buildout.cfg"
    path.write_text("[a]\nrecipe = plone.recipe.zeoserver\n")
    main(["migrate-check", str(path)])
    out = capsys.readouterr().out
    assert f"to be changed: {path}, line 2, [a] recipe\n" in out
    assert "\n  -> recipe = zeolith\n" in out


def test_what_moves_a_cursor_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "buildout.cfg"
    path.write_text("[a]\nrecipe = plone.recipe.zeoserver\n\x1b[2Jb = 1\n")
    main(["migrate-check", str(path)])
    out = capsys.readouterr().out
    assert "\ufffd[2Jb" in out
    assert "\x1b" not in out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "buildout.cfg"
    path.write_text("[a]\nrecipe = plone.recipe.zeoserver\nclient-conflict-resolution = true\n")
    assert main(["migrate-check", "--json", str(path)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["kind"], found["hint"]) == (str(path), "buildout.cfg", [])
    assert found["refused"] == [
        {
            "file": str(path),
            "line": 2,
            "subject": "[a] recipe",
            "text": "plone.recipe.zeoserver makes a server of ZEO's",
            "remedy": "recipe = zeolith",
        }
    ]
    assert [one["subject"] for one in found["changed"]] == [
        f"[a] {name}"
        for name in ("zeo-address", "transaction-timeout", "invalidation-age", "max-message-size")
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory; check the path"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"x" * (MAX_SIZE + 1), "is longer than 4194304 bytes"),
        (b"", "is no zeo.conf"),
        (b"hello\n", "name one of these, or say what it is with --kind"),
    ],
    ids=["missing", "binary", "long", "empty", "other"],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, problem: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert main(["migrate-check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"zeolith: {path}: ")
    assert problem in err


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate-check", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_the_kind_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("# nothing yet\n")
    assert main(["migrate-check", "--kind", "zope.conf", str(path)]) == 0
    assert main(["migrate-check", "--kind", "other.conf", str(path)]) == 2
    assert "zope.conf" in capsys.readouterr().err
