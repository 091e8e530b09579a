"""What a child made by fork may and may not touch of its parent's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import users as known
from tests.support.processes import ServerProcess, run_python


def test_a_child_leaves_the_applications_own_cache_to_its_parent(tmp_path: Path) -> None:
    """The child has a copy of the object, but they share its file and the position in it."""
    pytest.importorskip("ZEO.cache")
    with ServerProcess(tmp_path / "server") as server:
        printed = run_python(
            """
import os, sys
import ZEO.cache
import zeolith
from ZODB.Connection import TransactionMetaData

def commit(storage, number, data):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(number.to_bytes(8), bytes(8), data, "", meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)

cache = ZEO.cache.ClientCache(sys.argv[3], size=1000000)
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])), cache=cache)
tid = commit(storage, 1, b"one")
assert storage.load((1).to_bytes(8)) == (b"one", tid)
child = os.fork()
if child == 0:
    status = 1
    try:
        assert storage.load((1).to_bytes(8)) == (b"one", tid)
        commit(storage, 2, b"two")
        assert storage.load((2).to_bytes(8))[0] == b"two"
        storage.close()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
storage.ping()
assert cache.load((1).to_bytes(8)) == (b"one", tid)
assert cache.load((2).to_bytes(8)) is None
assert storage.load((2).to_bytes(8))[0] == b"two"
storage.close()
print("done")
""",
            *map(str, server.address),
            str(tmp_path / "cache.zec"),
        )
        assert printed == "done\n"


def test_a_child_logs_in_by_itself(tmp_path: Path) -> None:
    """And knows a password that has changed since."""
    users, password = tmp_path / "users", tmp_path / "password"
    known.write(users, known.entry("alice"))
    password.write_text(known.PASSWORD)
    config = f"authentication-database {users}"
    with ServerProcess(tmp_path / "server", config=config) as server:
        printed = run_python(
            """
import os, sys
import zeolith
from zeolith.admin.users import change_user, hash_password
from pathlib import Path

storage = zeolith.ClientStorage(
    (sys.argv[1], int(sys.argv[2])), username="alice", password_file=sys.argv[4]
)
storage.ping()
change_user(Path(sys.argv[3]), "alice", hash_password("another", 4096))
Path(sys.argv[4]).write_text("another")
child = os.fork()
if child == 0:
    status = 1
    try:
        storage.ping()
        assert len(storage.new_oid()) == 8
        storage.close()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
storage.ping()
storage.close()
print("done")
""",
            *map(str, server.address),
            str(users),
            str(password),
        )
        assert printed == "done\n"
