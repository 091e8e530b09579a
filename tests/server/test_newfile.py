"""New files, and directories that may be there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeolith.server import newfile
from zeolith.server.newfile import make_directory, make_file


def test_a_new_file_is_this_user_s_alone_and_has_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for _ in range(3):
        monkeypatch.setattr(newfile, "_numbers", iter(range(5)))  # as if another had taken some
        descriptor, path = make_file(str(tmp_path), "prefix-")
        try:
            assert os.write(descriptor, b"x") == 1
            assert not os.get_inheritable(descriptor)
        finally:
            os.close(descriptor)
        assert os.path.basename(path).startswith("prefix-")
        assert os.stat(path).st_mode & 0o777 == 0o600
        paths.append(path)
    assert sorted(paths) == sorted(str(path) for path in tmp_path.iterdir())
    assert len(set(paths)) == 3


def test_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newfile, "_numbers", iter(range(2)))
    target = tmp_path / "target"
    (tmp_path / f"p{newfile._process}0").symlink_to(target)
    descriptor, path = make_file(str(tmp_path), "p")
    os.close(descriptor)
    assert path.endswith("1")
    assert not target.exists()


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_file(str(tmp_path / "nothing"), "p")


def test_a_directory_with_all_that_lead_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for _ in range(2):
        make_directory(str(path))
        assert path.is_dir()


def test_a_directory_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int = 0o777) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    make_directory(str(tmp_path))  # it is there
    with pytest.raises(OSError, match="Read-only"):
        make_directory(str(tmp_path / "a"))
