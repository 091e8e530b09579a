"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from tests.support.processes import child_environment

from zeolith.cli.console import Console

PROGRAM = """\
import sys
from zeolith.cli.console import Console
with Console().progress("copying", 1000) as advance:
    for _ in range(10):
        advance(100)
print("done")
"""


def test_a_terminal_shows_a_bar() -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**child_environment(), "TERM": "xterm", "COLUMNS": "80"},
            text=True,
            timeout=30,
            check=True,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == "done\n"
    assert "copying" in shown
    assert "100%" in shown


def test_elsewhere_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("zeolith.cli.console.time.monotonic", lambda: now)
    with Console().progress("copying", 1000) as advance:
        for _ in range(10):
            advance(100)
            now += 4.0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "copying: 40 % of 1000 bytes",
        "copying: 70 % of 1000 bytes",
        "copying: 100 % of 1000 bytes",
    ]


@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_for_those_who_ask(capsys: pytest.CaptureFixture[str], verbose: bool) -> None:
    report = Console(verbose)
    report.detail("a detail")
    report.line("a line")
    with report.progress("nothing", 0) as advance:
        advance(0)
    details = ["a detail"] if verbose else []
    more = ["nothing: 0 bytes"] if verbose else []
    assert capsys.readouterr().err.splitlines() == [*details, "a line", *more]
