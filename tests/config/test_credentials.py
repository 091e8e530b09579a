"""Certificates that change while a process runs."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import DAY, Certificates

import zeolith
from zeolith.config.credentials import FileCredentials
from zeolith.config.keypassword import KeyPassword
from zeolith.config.tls import TlsSettings
from zeolith.credentials import FixedCredentials, to_credentials
from zeolith.errors import ConfigurationError


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def current(ours: Certificates, tmp_path: Path) -> Path:
    """The server's certificate where it is configured."""
    path = tmp_path / "current.pem"
    shutil.copy(ours.issue("first"), path)
    return path


def replace(path: Path, source: str) -> None:
    """Put *source* there as tools do that renew certificates."""
    fresh = path.with_suffix(".new")
    shutil.copy(source, fresh)
    os.replace(fresh, path)


def make(current: Path, ours: Certificates, **settings: Any) -> FileCredentials:
    return FileCredentials.of_server(
        TlsSettings(certificate=str(current), authenticate=ours.root, **settings)
    )


def test_nothing_is_made_anew_while_nothing_changes(ours: Certificates, current: Path) -> None:
    found = make(current, ours)
    context = found.context
    found.refresh()
    assert found.context is context


@pytest.mark.parametrize("what", ["certificate", "key", "authenticate", "crl", "password"])
def test_each_file_counts(ours: Certificates, current: Path, tmp_path: Path, what: str) -> None:
    key, crl, password = (tmp_path / name for name in ("key.pem", "list.crl", "secret"))
    locked = Path(ours.encrypt(str(current), b"opensesame"))
    shutil.copy(locked, key)
    shutil.copy(ours.revoke([]), crl)
    password.write_bytes(b"opensesame\n")
    found = make(
        current,
        ours,
        key=str(key),
        revocations=str(crl),
        password=KeyPassword(file=str(password)),
    )
    context = found.context
    path = {
        "certificate": current,
        "key": key,
        "authenticate": Path(ours.root),
        "crl": crl,
        "password": password,
    }[what]
    replace(path, str(path))
    found.refresh()
    assert found.context is not context
    assert found.trouble == ""


def test_a_new_file_in_a_directory_counts(
    ours: Certificates, current: Path, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "01234567.0").write_bytes(Path(ours.root).read_bytes())
    found = FileCredentials.of_server(
        TlsSettings(certificate=str(current), authenticate=str(trusted))
    )
    context = found.context
    found.refresh()
    assert found.context is context
    (trusted / "89abcdef.0").write_bytes(Path(ours.root).read_bytes())
    found.refresh()
    assert found.context is not context


def test_what_cannot_be_used_leaves_the_old_in_use(
    ours: Certificates, current: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = make(current, ours)
    context, expires = found.context, found.expires
    current.write_text("half of a file")
    for _ in range(3):
        found.refresh()
    assert found.context is context
    assert found.expires == expires
    assert str(current) in found.trouble
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert "those read before stay in use" in line.getMessage()
    current.unlink()
    found.refresh()
    assert "No such file" in found.trouble
    caplog.clear()
    caplog.set_level(logging.INFO)
    replace(current, ours.issue("second", end=100 * DAY))
    found.refresh()
    assert found.trouble == ""
    assert found.context is not context
    assert found.expires is not None
    assert expires is not None
    assert found.expires - expires == pytest.approx(10 * 86400, abs=100)
    assert "certificates read again" in caplog.text


def test_what_failed_is_tried_again_although_the_file_is_the_same(
    ours: Certificates, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password may come from somewhere else."""
    monkeypatch.setenv("KEY_WORD", "opensesame")
    locked = ours.encrypt(str(current), b"opensesame")
    found = make(Path(locked), ours, password=KeyPassword(variable="KEY_WORD"))
    context = found.context
    monkeypatch.setenv("KEY_WORD", "wrong")
    replace(Path(locked), locked)
    found.refresh()
    assert found.trouble
    monkeypatch.setenv("KEY_WORD", "opensesame")
    found.refresh()
    assert found.trouble == ""
    assert found.context is not context


@pytest.mark.parametrize(("days", "word"), [(31, None), (29, "expires"), (-1, "expired")])
def test_a_certificate_that_ends_is_warned_of_once_a_day(
    ours: Certificates,
    current: Path,
    caplog: pytest.LogCaptureFixture,
    days: int,
    word: str | None,
) -> None:
    end = make(current, ours).expires
    assert end is not None
    now = end - days * 86400
    settings = TlsSettings(certificate=str(current), authenticate=ours.root)
    found = FileCredentials(settings, TlsSettings.server_context, lambda: now)
    for _ in range(3):
        found.refresh()
    if word is None:
        assert caplog.records == []
        return
    [line] = caplog.records
    assert f"{current} {word} on " in line.getMessage()
    now += 86400 + 1
    found.refresh()
    assert len(caplog.records) == 2


def test_what_the_client_gets(ours: Certificates, current: Path) -> None:
    found = zeolith.tls(str(current), ours.root, check_hostname=False)
    assert found.context.check_hostname is False
    assert found.context.verify_mode is ssl.CERT_REQUIRED
    assert found.expires is not None
    system = zeolith.tls()
    assert system.context.check_hostname
    assert system.expires is None
    system.refresh()
    with pytest.raises(ConfigurationError, match="excludes password-file"):
        zeolith.tls(str(current), password_file="a", password_command="b")


def test_contexts_are_credentials_that_stay() -> None:
    context = ssl.create_default_context()
    found = to_credentials(context)
    assert isinstance(found, FixedCredentials)
    found.refresh()
    assert found.context is context
    assert (found.expires, found.trouble) == (None, "")
    assert to_credentials(found) is found
    assert to_credentials(None) is None
    with pytest.raises(TypeError, match="bool is no SSL context"):
        to_credentials(True)


@pytest.mark.parametrize(("days", "is_warned"), [(2, False), (0.5, True), (-1, True)])
def test_a_revocation_list_that_ends_is_warned_of(
    ours: Certificates,
    current: Path,
    caplog: pytest.LogCaptureFixture,
    days: float,
    is_warned: bool,
) -> None:
    found = make(current, ours, revocations=ours.revoke([], next_update=days * DAY))
    found.refresh()
    found.refresh()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == is_warned
    assert all("the revocation list in " in line and ".crl expire" in line for line in lines)


def test_a_child_does_not_wait_for_a_thread_of_its_parent(
    ours: Certificates, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make(current, ours)
    found._lock.acquire()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    found.refresh()


def test_sessions_are_not_resumed(ours: Certificates, current: Path) -> None:
    context = make(current, ours).context
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET


def test_what_comes_back_unchanged_is_no_trouble_any_more(
    ours: Certificates, tmp_path: Path
) -> None:
    """As on a disk that was away for a moment."""
    place, away = tmp_path / "place", tmp_path / "away"
    place.mkdir()
    current = place / "current.pem"
    shutil.copy(ours.issue("first"), current)
    found = make(current, ours)
    place.rename(away)
    found.refresh()
    assert found.trouble
    away.rename(place)
    found.refresh()
    assert found.trouble == ""
