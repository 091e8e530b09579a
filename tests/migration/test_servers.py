"""What would change for a ``zeo.conf``."""

from __future__ import annotations

from pathlib import Path

import pytest
import ZConfig
import ZEO

from zeolith.migration.check import check_migration
from zeolith.migration.remarks import Effect, Remarks

WHOLE = """\
<zeo>
  address 127.0.0.1:8100
  transaction-timeout 60
  invalidation-queue-size 100
  invalidation-age 0
  max-message-size 256MB
  conflict-resolution in-process
</zeo>
<filestorage 1>
  path {directory}/Data.fs
</filestorage>
"""


def check(tmp_path: Path, text: str) -> Remarks:
    path = tmp_path / "zeo.conf"
    path.write_text(text.format(directory=tmp_path))
    return check_migration(str(path))


def subjects(remarks: Remarks, effect: Effect) -> list[str]:
    return [remark.subject for remark in remarks.of(effect)]


def test_a_file_for_which_nothing_changes(tmp_path: Path) -> None:
    remarks = check(tmp_path, WHOLE)
    assert remarks.kind == "zeo.conf"
    assert remarks.remarks == []


@pytest.mark.parametrize(
    "key",
    [
        *("transaction-timeout", "invalidation-queue-size", "invalidation-age"),
        *("max-message-size", "conflict-resolution"),
    ],
)
def test_a_default_that_is_another_one(tmp_path: Path, key: str) -> None:
    lines = [line for line in WHOLE.splitlines() if not line.strip().startswith(key)]
    remarks = check(tmp_path, "\n".join(lines))
    assert subjects(remarks, Effect.CHANGED) == [key]
    (remark,) = remarks.remarks
    assert (remark.place.line, remark.text[:12]) == (1, "is not given")
    # What is to be written has ZEO's meaning, and is accepted.
    written = remark.remedy.rpartition(": ")[2]
    assert written.startswith(f"{key} ")
    again = "\n".join([lines[0], written, *lines[1:]])
    found = check(tmp_path, again)
    assert found.of(Effect.CHANGED) == found.of(Effect.REFUSED) == []


def test_clients_that_resolve_conflicts(tmp_path: Path) -> None:
    text = WHOLE.replace("conflict-resolution in-process", "client-conflict-resolution true")
    assert check(tmp_path, text).of(Effect.CHANGED) == []


def test_zeos_defaults_are_those_that_are_named() -> None:
    schema = ZConfig.loadSchema(str(Path(ZEO.__file__).parent / "schema.xml"))
    defaults = {name: info.getdefault() for name, info in schema.gettype("zeo") if name is not None}
    assert defaults["transaction-timeout"] is None
    assert defaults["invalidation-queue-size"].value == "100"
    assert defaults["invalidation-age"] is None
    assert "conflict-resolution" not in defaults


@pytest.mark.parametrize("address", ["8100", "*:8100", "example.org:8100", "/var/zeo.sock"])
def test_a_port_alone(tmp_path: Path, address: str) -> None:
    remarks = check(tmp_path, WHOLE.replace("127.0.0.1:8100", address))
    found = [remark for remark in remarks.of(Effect.CHANGED) if remark.subject == "address"]
    assert bool(found) is (address == "8100")
    if found:
        assert found[0].place.line == 2
        assert "address *:8100" in found[0].remedy


def test_what_cannot_be_used_is_what_check_config_finds(tmp_path: Path) -> None:
    remarks = check(tmp_path, WHOLE.replace("  max-message", "  nonsense 1\n  max-message"))
    (refused,) = remarks.of(Effect.REFUSED)
    assert (refused.place.line, refused.subject) == (6, "nonsense")


def test_keys_that_work_again(tmp_path: Path) -> None:
    lines = "  monitor-address 127.0.0.1:8101\n  authentication-database {directory}/users\n"
    (tmp_path / "users").write_text("realm ZEO\nfred:0123456789012345678901234567890123456789\n")
    remarks = check(tmp_path, WHOLE.replace("</zeo>", f"{lines}</zeo>"))
    assert subjects(remarks, Effect.CHANGED) == ["monitor-address", "authentication-database"]
    assert any("users" in remark.text + remark.remedy for remark in remarks.of(Effect.REFUSED)), (
        "the old file is not read"
    )


def test_a_program_of_zeos(tmp_path: Path) -> None:
    program = tmp_path / "runzeo"
    program.touch(0o755)
    runner = f"<runner>\n  program {program}\n  socket-name {tmp_path}/zdsock\n</runner>\n"
    remarks = check(tmp_path, WHOLE + runner)
    assert subjects(remarks, Effect.CHANGED) == ["program"]
    assert remarks.of(Effect.CHANGED)[0].place.line == 13


@pytest.mark.parametrize("kind", ["zeoclient", "clientstorage"])
def test_a_client_in_a_server(tmp_path: Path, kind: str) -> None:
    client = f"<{kind} 2>\n  server 127.0.0.1:8200\n</{kind}>\n"
    assert subjects(check(tmp_path, WHOLE + client), Effect.CHANGED) == [f"<{kind} 2>"]
