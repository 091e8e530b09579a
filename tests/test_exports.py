"""What ``import zeolith`` offers, and that it does nothing else."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

import zeolith

PUBLIC = {
    *("DB", "ClientStorage", "__version__", "changes", "client", "connection", "server", "tls"),
}


def in_a_fresh_interpreter(code: str) -> str:
    """Run *code* where nothing has been imported; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names() -> None:
    assert set(zeolith.__all__) == PUBLIC
    assert len(zeolith.__all__) == len(PUBLIC)
    assert set(dir(zeolith)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_can_be_called_and_is_described(name: str) -> None:
    value = getattr(zeolith, name)
    assert callable(value)
    assert inspect.getdoc(value)


def test_names_can_be_imported_from_the_package() -> None:
    from zeolith import DB, ClientStorage, connection
    from zeolith.client.storage import ClientStorage as Original

    assert ClientStorage is Original
    assert DB is import_module("zeolith.shortcuts").DB
    assert connection is import_module("zeolith.shortcuts").connection


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runzeo'"):
        zeolith.runzeo  # noqa: B018


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|a\d+|b\d+|rc\d+)?", zeolith.__version__)


def test_importing_brings_nothing_along() -> None:
    loaded = in_a_fresh_interpreter(
        "before = set(sys.modules)\n"
        "import zeolith\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    ).split()
    assert "zeolith" in loaded
    assert not {"asyncio", "uvloop", "ssl", "socket", "logging", "ZODB", "click"} & set(loaded)
    assert "threading" not in loaded


@pytest.mark.parametrize("package", ["client", "server"])
@pytest.mark.parametrize("first", ["import zeolith.{0}.storage_or_not", "pass"])
def test_packages_that_can_be_called_stay_packages(package: str, first: str) -> None:
    # Importing something of the package must not turn the function into a module, nor must
    # naming the function hide the package.
    statement = f"import zeolith.{package}.options" if "{0}" in first else first
    printed = in_a_fresh_interpreter(
        f"{statement}\n"
        "import zeolith\n"
        f"print(callable(zeolith.{package}))\n"
        f"from zeolith.{package} import options\n"
        f"print(callable(zeolith.{package}), zeolith.{package}.options is options)"
    )
    assert printed.split() == ["True", "True", "True"]


def test_calls_go_to_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, home in (("client", "zeolith.shortcuts"), ("server", "zeolith.standalone")):
        module = import_module(home)
        calls: list[tuple[object, ...]] = []
        monkeypatch.setattr(module, package, lambda *a, calls=calls, **k: calls.append((a, k)))
        function: Any = getattr(zeolith, package)
        function(1, two=2)
        assert calls == [((1,), {"two": 2})]
