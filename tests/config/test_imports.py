"""Storages and wrappers of packages that a configuration imports."""

from __future__ import annotations

from pathlib import Path

import pytest

import zeolith
from zeolith.config.server import parse_server_config
from zeolith.errors import ConfigurationError

COMPONENT = """
<component prefix="{package}">
  <sectiontype name="reversed" datatype=".Reversed" implements="ZODB.storage">
    <section type="ZODB.storage" name="*" attribute="base"/>
    <key name="depth" datatype="integer" default="1"/>
  </sectiontype>
  <sectiontype name="picky" datatype=".picky" implements="ZODB.storage"/>
</component>
"""

MODULE = """
from ZODB.config import BaseConfig


class Wrapper:
    def __init__(self, base):
        self.base = base

    def __getattr__(self, name):
        if name.startswith("_") or name in ("load", "loadSerial", "tpc_transaction"):
            raise AttributeError(name)
        return getattr(self.base, name)

    def __len__(self):
        return len(self.base)

    def store(self, oid, serial, data, version, transaction):
        return self.base.store(oid, serial, data[::-1], version, transaction)

    def loadBefore(self, oid, tid):
        found = self.base.loadBefore(oid, tid)
        return found and (found[0][::-1], *found[1:])


class Reversed(BaseConfig):
    def open(self):
        storage = self.config.base.open()
        for _ in range(self.config.depth):
            storage = Wrapper(storage)
        return storage


def picky(section):
    raise KeyError("nothing will do")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with a wrapper of storages."""
    name = f"wrappers_{abs(hash(tmp_path))}"
    directory = tmp_path / name
    directory.mkdir()
    (directory / "__init__.py").write_text(MODULE)
    (directory / "component.xml").write_text(COMPONENT.format(package=name))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_imported_wrapper_is_served(package: str, tmp_path: Path) -> None:
    address, stop = zeolith.server(
        storage_conf=f"%import {package}\n<reversed>\n<filestorage>\npath {tmp_path}/Data.fs\n"
        "</filestorage>\n</reversed>"
    )
    try:
        connection = zeolith.connection(address)
        try:
            with connection.transaction_manager:
                connection.root()["word"] = "Zeolith" * 3
            connection.cacheMinimize()
            assert connection.root()["word"] == "Zeolith" * 3
        finally:
            connection.close()
    finally:
        stop()
    # What is on the disk went through the wrapper.
    assert b"htiloeZhtiloeZ" in (tmp_path / "Data.fs").read_bytes()


def refusal(storage: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse_server_config(f"<zeo>\naddress 0\n</zeo>\n{storage}", "zeo.conf")
    return caught.value


def test_mistakes_in_its_sections_are_said_as_in_others(package: str) -> None:
    error = refusal(f"%import {package}\n<reversed>\ndepth many\ndeep 1\n</reversed>")
    assert error.option == "zeo.conf, line 6, depth"
    assert error.remedy == "give a whole number"
    assert error.__notes__ == ["1 more: see zeolith check-config"]


def test_what_its_code_raises_is_said_with_its_place(package: str) -> None:
    error = refusal(f"%import {package}\n<picky>\n</picky>")
    assert error.option == "zeo.conf, line 5, <picky>"
    assert "KeyError: 'nothing will do'" in error.problem


def test_zeos_own_package_is_not_needed() -> None:
    error = refusal("%import ZEO\n<mappingstorage>\n</mappingstorage>")
    assert error.option == "zeo.conf, line 4, %import ZEO"
    assert "<zeolith> needs no %import" in error.remedy
