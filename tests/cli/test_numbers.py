"""Numbers on the command line that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeolith.cli.main import USAGE, main


@pytest.mark.parametrize(
    "command",
    [
        ["cache", "stats", "-i", "nan", "FILE"],
        ["cache", "simulate", "-i", "nan", "FILE"],
        ["cache", "simulate", "-s", "nan", "FILE"],
        ["cache", "simulate", "-s", "65537", "FILE"],
        ["cache", "simulate", "-r", "nan", "FILE"],
        ["pack", "-d", "nan", "localhost:1"],
        ["pack", "--wait", "nan", "localhost:1"],
        ["status", "--timeout", "nan", "localhost:1"],
    ],
    ids=" ".join,
)
def test_it_is_wrong_use(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "app.trace"
    path.write_bytes(b"")
    assert main([str(path) if word == "FILE" else word for word in command]) == USAGE
    told = capsys.readouterr().err
    assert "is no number" in told or "is not in the range" in told
