"""Where the password of a key comes from, and what is said if it does not."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from zeolith.config import keypassword
from zeolith.config.keypassword import MAX_PASSWORD, KeyPassword
from zeolith.errors import ConfigurationError


def command(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def test_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(b"open sesame \r\nsecond line\n")
    monkeypatch.setenv("WORD", "open sesame ")
    for source in (
        KeyPassword(file=str(tmp_path / "secret")),
        KeyPassword(variable="WORD"),
        KeyPassword(command=command("print('open sesame ')")),
    ):
        assert source.asker()() == b"open sesame "
    assert KeyPassword(function="os.getcwd").asker()() == bytes(Path.cwd())
    assert KeyPassword(function="os.getcwdb").asker()() == bytes(Path.cwd())


def failure(source: KeyPassword) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        source.asker()()
    return caught.value


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, long = tmp_path / "empty", tmp_path / "long"
    empty.write_bytes(b"\nsecret\n")
    long.write_bytes(b"x" * (MAX_PASSWORD + 1))
    monkeypatch.setenv("LONG", "y" * (MAX_PASSWORD + 1))
    for option, sources in {
        "password-file": {
            "cannot be read: No such file": KeyPassword(file="/no/such/file"),
            "gives no password": KeyPassword(file=str(empty)),
            f"more than {MAX_PASSWORD} bytes": KeyPassword(file=str(long)),
        },
        "password-environment": {
            "no variable NOT_THERE": KeyPassword(variable="NOT_THERE"),
            f"more than {MAX_PASSWORD} bytes": KeyPassword(variable="LONG"),
        },
        "password-command": {
            "cannot be run: No such file": KeyPassword(command="/no/such/command --now"),
            "ended with status 3: locked": KeyPassword(
                command=command(
                    "import sys; print('half'); print('locked', file=sys.stderr); sys.exit(3)"
                )
            ),
            "gives no password": KeyPassword(command=command("pass")),
            "cannot be split": KeyPassword(command="say 'half"),
            "is empty": KeyPassword(command=" "),
        },
        "password-function": {
            "os.fspath raised TypeError": KeyPassword(function="os.fspath"),
            "os.getpid returned int": KeyPassword(function="os.getpid"),
        },
    }.items():
        for problem, source in sources.items():
            error = failure(source)
            assert error.option == option
            assert problem in error.problem
            assert "half" not in str(error) or "split" in problem


def test_the_longest_password(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x" * MAX_PASSWORD + b"\n")
    assert KeyPassword(file=str(path)).asker()() == b"x" * MAX_PASSWORD


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypassword, "COMMAND_TIMEOUT", 0.1)
    error = failure(KeyPassword(command=command("import time; time.sleep(600)")))
    assert "has not ended within 0.1 s" in error.problem


def test_one_source_is_enough() -> None:
    with pytest.raises(ConfigurationError, match="password-command: excludes password-file"):
        KeyPassword(file="a", command="b")


def test_nobody_is_asked_on_the_terminal() -> None:
    assert failure(KeyPassword()).option == "key"
