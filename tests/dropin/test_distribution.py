"""The distribution ``zeolith-zeo``: what its metadata say, and what is in it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tests.support.documents import table_keys
from tests.support.sites import DROPIN, ROOT, Site

import zeolith


def project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text())
    return found


def test_it_is_of_the_same_version() -> None:
    metadata = project(DROPIN / "pyproject.toml")["project"]
    assert metadata["version"] == zeolith.__version__
    assert f"zeolith=={zeolith.__version__}" in metadata["dependencies"]
    ours = project(ROOT / "pyproject.toml")
    assert metadata["requires-python"] == ours["project"]["requires-python"]
    assert (DROPIN / "LICENSE.txt").read_text() == (ROOT / "LICENSE.txt").read_text()


def test_every_module_can_be_imported(dropin: Site, tmp_path: Path) -> None:
    """But for the one whose import says why it cannot."""
    source = DROPIN / "src"
    names = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in source.rglob("*.py")
    }
    names -= {"ZEO.StorageServer", "ZEO.runzeo.__main__"}
    assert len(names) > 12
    dropin.run("-c", f"import {', '.join(sorted(names))}", cwd=tmp_path)


def test_what_is_in_it_besides_modules() -> None:
    packaged = project(DROPIN / "pyproject.toml")["tool"]["setuptools"]["package-data"]["ZEO"]
    package = DROPIN / "src" / "ZEO"
    others = {path.name for path in package.iterdir() if path.suffix not in ("", ".py")}
    assert others == {"py.typed", "component.xml"}
    assert {path.name for glob in packaged for path in package.glob(glob)} == others


def test_importing_it_brings_little_along(dropin: Site, tmp_path: Path) -> None:
    """``%import ZEO`` and ``import ZEO`` must not make anybody wait."""
    program = "import sys, ZEO; print(*sys.modules)"
    loaded = dropin.run("-c", program, cwd=tmp_path).stdout.split()
    assert "ZEO" in loaded
    assert not {"ZODB", "asyncio", "ssl", "zeolith.client"} & set(loaded)


def test_every_script_of_zeos_is_there() -> None:
    import importlib.metadata

    theirs = importlib.metadata.distribution("ZEO").entry_points.select(group="console_scripts")
    ours = project(DROPIN / "pyproject.toml")["project"]["scripts"]
    assert {entry.name: entry.value for entry in theirs} == ours


def test_the_document_names_what_is_there() -> None:
    said = table_keys(ROOT / "docs" / "dropin.md")
    assert {"ZEO.client", "ZEO.ClientStorage.ClientStorage", "runzeo", "zeo-nagios"} <= said
    for name in said:
        parts = name.removeprefix("python -m ").split(".")
        if parts[0] == "ZEO" and len(parts) > 1 and parts[1][:1].isupper() and parts[1] != "DB":
            assert (DROPIN / "src" / "ZEO" / parts[1]).exists() or (
                DROPIN / "src" / "ZEO" / f"{parts[1]}.py"
            ).exists(), name
