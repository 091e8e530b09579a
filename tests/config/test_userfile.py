"""The user file: what is written is read, damage is named, secrets stay secret."""

from __future__ import annotations

import fcntl
import os
import stat
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.config import userfile
from zeolith.config.userfile import (
    Entry,
    UserTable,
    changing,
    check_name,
    format_entry,
    format_users,
    parse_users,
    read_users,
    write_users,
)
from zeolith.errors import ConfigurationError
from zeolith.protocol.saslprep import saslprep
from zeolith.protocol.scram import Secret, make_secret
from zeolith.rights import DEFAULT, NONE, Right, Rights

DIGEST = "5f1d3cf4c2a2f8a2f5e0bd51d1fd6d8b1b5b3c0e"
SECRET = make_secret("wonderland", b"0123456789abcdef", 4096)
ALICE = Entry("alice", SECRET, None, Right.READ, {"a b": DEFAULT}, ("Jane Doe",), ("root", "7"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def users(*entries: Entry) -> UserTable:
    return UserTable(lines=list(entries))


# -- text ----------------------------------------------------------------------------------------


def test_a_file_of_zeo_3() -> None:
    table = parse_users(f"realm ZEO\nbob:{DIGEST}\n\n# end\n", "users")
    assert table.realm == "ZEO"
    (bob,) = table.entries.values()
    assert (bob.name, bob.digest, bob.secret, bob.needs_password) == ("bob", DIGEST, None, True)
    assert bob.rights == Rights()
    assert format_users(table) == f"realm ZEO\nbob:{DIGEST}\n\n# end\n"


def test_an_entry_of_ours() -> None:
    line = format_entry(ALICE)
    assert parse_users(f"{line}\n", "users").entries == {"alice": ALICE}
    assert "access=read access@a%20b=" in line
    assert line.endswith("certificate=Jane%20Doe uid=root uid=7")
    assert not ALICE.needs_password


@pytest.mark.parametrize(
    ("text", "everywhere", "on_one"),
    [
        ("", DEFAULT, DEFAULT),
        ("access=read", Right.READ, Right.READ),
        ("access@1=pack", NONE, Right.PACK | Right.READ),
        ("access@1=none", NONE, NONE),
        ("access=read access@1=none", Right.READ, NONE),
    ],
)
def test_r9_who_is_let_to_one_storage_is_not_let_to_others(
    text: str, everywhere: Right, on_one: Right
) -> None:
    rights = parse_users(f"bob:- {text}\n", "users").entries["bob"].rights
    assert (rights.on("2"), rights.on("1")) == (everywhere, on_one)


names = st.text(min_size=1, max_size=10)
rights = st.integers(0, 31).map(Right)


def normal(name: str) -> bool:
    try:
        return check_name(name) == name
    except ConfigurationError:
        return False


@given(
    st.lists(
        st.builds(
            Entry,
            names.filter(normal),
            st.none() | st.just(SECRET),
            st.none(),
            st.none(),
            st.dictionaries(names, st.just(Right.READ), max_size=2),
            st.lists(names, max_size=2, unique=True).map(tuple),
        ),
        max_size=4,
        unique_by=(lambda entry: entry.name),
    )
)
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if seen & set(entry.certificates) or any(map(_is_lone, entry.certificates)):
            return
        if any(map(_is_lone, entry.storages)):
            return
        seen |= set(entry.certificates)
    text = format_users(UserTable("ZEO", b"k" * 32, list(entries)))
    found = parse_users(text, "users")
    assert list(found.entries.values()) == entries
    assert found.decoy_key == b"k" * 32


def _is_lone(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)


GOOD = format_entry(ALICE)
KEY = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (GOOD + "\n" + GOOD[:40], "damaged"),
        ("bob:- access=read", "has no end"),
        ("nonsense", "is no user"),
        ("realm two words", "is no user"),
        ("decoy-key short", "damaged"),
        (":-", "is empty"),
        ("bob:", "secret of 'bob' is damaged"),
        ("bob:secret", "secret of 'bob' is damaged"),
        (f"bob:{DIGEST[:-1]}", "secret of 'bob' is damaged"),
        (f"bob:{DIGEST.upper()}", "secret of 'bob' is damaged"),
        ("bob:SCRAM-SHA-256$4096:c2FsdA==$eA==:eA==", "damaged"),
        (GOOD.replace("$4096:", "$1:"), "out of bounds"),
        (GOOD.replace("$4096:", "$999999999:"), "out of bounds"),
        (GOOD.replace("access=read", "access=root"), "no right"),
        (GOOD.replace("access=read", "password=x"), "unknown"),
        (GOOD.replace("access=read", "access"), "unknown"),
        (GOOD.replace("uid=root", "uid="), "unknown"),
        (GOOD.replace("uid=root", "uid@x=root"), "unknown"),
        ("\u2168:-", "normal form"),
        ("bob:- certificate=x\nbob:-", "the user 'bob' is in line 1 too"),
        ("bob:- certificate=x\neve:- certificate=x", "the certificate 'x' is in line 1 too"),
        ("bob:- uid=x\neve:- uid=x", "the account 'x' is in line 1 too"),
        ("bob:- uid=x uid=x", "the account 'x' is in line 1 too"),
        ("bob:- access=read access=all", "has access on all storages twice"),
        ("bob:- access@1=none access@%31=all", "has access on storage '1' twice"),
        ("realm a\nrealm b", "the realm is in line 1 too"),
        (f"decoy-key {KEY}\ndecoy-key {KEY}", "the decoy-key is in line 1 too"),
    ],
)
def test_damage_is_named_with_its_line_and_no_secret(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        parse_users(line if "no end" in problem else f"{line}\n", "the file")
    number = line.count("\n") + 1
    assert str(caught.value).startswith(f"the file, line {number}")
    for secret in (DIGEST[:-1], "c2FsdA==", userfile._text(SECRET.stored_key)):
        assert secret not in str(caught.value)


def test_a_file_that_is_cut_off_anywhere_is_damaged_or_has_fewer_users() -> None:
    text = format_users(UserTable("ZEO", b"k" * 32, [ALICE, Entry("bob", SECRET)]))
    full = parse_users(text, "users").entries
    for size in range(len(text)):
        try:
            found = parse_users(text[:size], "users").entries
        except ConfigurationError:
            continue
        for name, entry in found.items():
            # Never with more rights, as the default ones are.
            assert entry == full[name]


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "a ", "a\tb", "a\nb"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_name(name)


def test_names_of_more_than_one_word() -> None:
    for name in ("Jane Doe", "j=d", "Jürgen", "a#b"):
        entry = Entry(check_name(name), SECRET)
        assert parse_users(format_entry(entry) + "\n", "users").entries == {name: entry}


def test_secrets_are_not_shown() -> None:
    table = UserTable("ZEO", b"k" * 32, [ALICE, Entry("bob", digest=DIGEST)])
    for value in (table, *table.lines, SECRET):
        assert DIGEST not in repr(value)
        assert repr(SECRET.stored_key) not in repr(value)
        assert repr(SECRET.server_key) not in repr(value)
        assert repr(table.decoy_key) not in repr(value)
    assert isinstance(SECRET, Secret)


# -- the file ------------------------------------------------------------------------------------


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        write_users(path, users(ALICE))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read_users(path)
    assert found.entries == {"alice": ALICE}
    assert found.realm == "ZEO"
    assert found.decoy_key is not None
    assert len(found.decoy_key) == 32
    assert [each.name for each in path.parent.iterdir()] == ["users"]


def test_permissions_and_comments_stay(path: Path) -> None:
    path.write_text(f"# ours\nrealm X\n\nbob:{DIGEST}\n")
    path.chmod(0o640)
    table = read_users(path)
    table.put(ALICE)
    write_users(path, table)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    lines = path.read_text().splitlines()
    assert lines[0] == "realm X"
    assert "# ours" in lines
    assert f"bob:{DIGEST}" in lines


def test_a_link_stays_a_link(path: Path) -> None:
    real = path.with_name("real")
    write_users(real, users(ALICE))
    path.symlink_to(real)
    write_users(path, users())
    assert path.is_symlink()
    assert read_users(real).entries == {}


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620, 0o610, 0o601, 0o777])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    write_users(path, users(ALICE))
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}.*chmod 600"):
        read_users(path)


def test_a_file_that_the_group_may_read(path: Path) -> None:
    write_users(path, users(ALICE))
    path.chmod(0o640)
    assert read_users(path).entries == {"alice": ALICE}


def test_what_is_no_file_of_users(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_users(path)
    with pytest.raises(ConfigurationError):
        read_users(path.parent)
    path.write_bytes(b"bob:\xff")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="no text"):
        read_users(path)


def test_r7_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path, 0o600)
    # Both ends, so that a fault is a failure and no hang.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    flags: list[int] = []
    opened = os.open

    def note(name: str, mode: int) -> int:
        flags.append(mode)
        return opened(name, mode)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", note)
            with pytest.raises(ConfigurationError, match="is no file"):
                read_users(path)
    finally:
        os.close(descriptor)
    assert flags
    assert flags[0] & os.O_NONBLOCK


def test_r8_a_large_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfile, "MAX_SIZE", 100)
    path.write_bytes(b"#" * 101)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="larger than 100"):
        read_users(path)


def test_a_write_that_fails_leaves_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_users(path, users(ALICE))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_users(path, users())
    assert read_users(path).entries == {"alice": ALICE}
    assert [each.name for each in path.parent.iterdir()] == ["users"]


def test_two_commands_do_not_change_it_at_once(path: Path) -> None:
    with changing(path):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    with pytest.raises(ConfigurationError), changing(path / "missing" / "file"):
        pass


def test_a_link_is_locked_where_the_file_is(path: Path) -> None:
    real = path.parent / "real"
    real.mkdir()
    write_users(real / "users", users(ALICE))
    path.symlink_to(real / "users")
    descriptor = os.open(real, os.O_RDONLY)
    try:
        with changing(path), pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_names_are_prepared() -> None:
    assert check_name("\u2168") == saslprep("\u2168", "x") == "IX"
