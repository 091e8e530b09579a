"""``ZEO.ClientStorage`` and its neighbours, as software for ZEO uses them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import ZEO.ClientStorage  # PyPI's
from tests.support.sites import Site

import zeolith

Python = Callable[[str], str]


def parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_every_argument_of_zeos_is_there_and_in_its_place(python: Python) -> None:
    """Arguments may be given by place; what is ours alone comes by name."""
    theirs = parameters(ZEO.ClientStorage.ClientStorage)
    assert theirs.pop() == "_client_factory"  # ZEO says: for its own tests
    assert parameters(zeolith.ClientStorage)[: len(theirs)] == theirs
    program = "import inspect; from ZEO.ClientStorage import ClientStorage as C; "
    printed = python(program + "print(*inspect.signature(C).parameters)").split()
    assert printed == parameters(zeolith.ClientStorage)


def test_the_call_forms_of_the_first_document(python: Python, port: int, tmp_path: Path) -> None:
    address, stop = zeolith.server(port=str(tmp_path / "zeo.sock"))
    try:
        printed = python(
            f"""if True:
            from ZEO.ClientStorage import ClientStorage
            import ZODB
            for addr in ('', {port}), ('localhost', {port}), {port}, {address!r}, 'zeo.sock':
                Storage = ClientStorage(addr)
                ZODB.DB(Storage).close()
            db = ZODB.DB(ClientStorage([('', {port}), {address!r}], '1', 1 << 20, 'mine'))
            print(db.storage.getName())
            db.close()
            """
        )
    finally:
        stop()
    assert printed == "mine (connected)\n"


def test_client_db_connection(python: Python, port: int) -> None:
    """As ZEO's own documentation calls them."""
    printed = python(
        f"""if True:
        import ZEO, ZODB, transaction
        db = ZEO.DB({port})
        connection = db.open()
        connection.root()['x'] = 1
        transaction.commit()
        db.close()
        connection = ZEO.connection(('localhost', {port}), wait_timeout=5)
        print(connection.root()['x'])
        connection.close()
        db = ZODB.DB(ZEO.client({port}, cache_size=200 << 20, client_label='here'))
        print(type(db.storage).__module__)
        db.close()
        """
    )
    assert printed == "1\nZEO.ClientStorage\n"


def test_arguments_of_all_times(python: Python, port: int) -> None:
    """What ZEO 6.2 and ZEO 2.0 take is taken; what has no effect is said in the log."""
    printed = python(
        f"""if True:
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format='%(name)s: %(message)s')
        from ZEO.ClientStorage import ClientStorage
        ClientStorage(
            ('127.0.0.1', {port}), storage='1', cache_size=20 << 20, name='', wait_timeout=None,
            disconnect_poll=None, read_only=0, read_only_fallback=0, blob_dir=None,
            shared_blob_dir=False, blob_cache_size=None, blob_cache_size_check=10,
            client_label=None, cache=None, ssl=None, ssl_server_hostname=None, client=None,
            var=None, min_disconnect_poll=1, max_disconnect_poll=None, wait=True,
            drop_cache_rather_verify=True, credentials=None, server_sync=False, username=None,
            password=None, realm=None).close()
        print('2.0')
        ClientStorage(
            ('127.0.0.1', {port}), client='mine', debug=1, var='.', min_disconnect_poll=5,
            max_disconnect_poll=300, wait_for_server_on_startup=1, read_only=0).close()
        print('no effect')
        ClientStorage(
            {port}, disconnect_poll=1, shared_blob_dir=True, blob_cache_size=1,
            ssl_server_hostname='x', cache='c.zec', client='y').close()
        """
    )
    assert printed == (
        "2.0\n"
        "ZEO.ClientStorage: debug has no effect: set the level of the logger 'zeolith.client' to "
        "DEBUG\n"
        "no effect\n"
        "ZEO.ClientStorage: disconnect_poll has no effect: give min_disconnect_poll and "
        "max_disconnect_poll\n"
        "ZEO.ClientStorage: ssl_server_hostname has no effect: there is no ssl\n"
        "ZEO.ClientStorage: client has no effect: cache says which one is used\n"
        "ZEO.ClientStorage: shared_blob_dir has no effect: there is no blob_dir\n"
        "ZEO.ClientStorage: blob_cache_size has no effect: there is no blob_dir\n"
    )


def test_what_cannot_be_used_is_refused(dropin: Site, tmp_path: Path) -> None:
    for arguments, text in (
        ("'localhost:8100'", "would be the path of a Unix socket"),
        ("1, colour='red'", "unexpected keyword argument 'colour'"),
        ("1, username='me'", "username: needs a password"),
        ("1, credentials=object()", "credentials: "),
        ("1, wait_timeout='soon'", "wait_timeout: 'soon' is not a number of seconds"),
    ):
        program = f"from ZEO.ClientStorage import ClientStorage; ClientStorage({arguments})"
        assert text in dropin.run("-c", program, cwd=tmp_path, status=1).stderr


def test_the_exceptions_are_ours(python: Python) -> None:
    printed = python(
        """if True:
        import zeolith.errors, transaction.interfaces
        from ZODB.POSException import StorageError
        from ZEO import ClientStorage, Exceptions
        try:
            ClientStorage.ClientStorage('nobody.sock', wait_timeout=0)
        except Exceptions.ClientDisconnected as error:
            print(type(error).__module__)
        for name in Exceptions.__all__:
            assert issubclass(getattr(Exceptions, name), StorageError), name
        assert Exceptions.ClientDisconnected is zeolith.errors.ClientDisconnected
        assert Exceptions.ClientStorageError is zeolith.errors.ClientStorageError
        assert Exceptions.ServerException is zeolith.errors.ServerError
        assert Exceptions.ProtocolError is zeolith.errors.ServerRefused
        assert issubclass(Exceptions.ClientDisconnected, transaction.interfaces.TransientError)
        assert ClientStorage.ClientDisconnected is Exceptions.ClientDisconnected
        assert ClientStorage.ClientStorageError is Exceptions.ClientStorageError
        assert ClientStorage.UnrecognizedResult is Exceptions.UnrecognizedResult
        """
    )
    assert printed == "zeolith.errors\n"


def test_every_name_of_zeos_exceptions_and_interfaces_is_there(python: Python) -> None:
    import ZEO.Exceptions
    import ZEO.interfaces

    for module in (ZEO.Exceptions, ZEO.interfaces):
        names = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__
        ]
        assert len(names) >= 3
        python(f"from {module.__name__} import {', '.join(names)}")


def test_interfaces(python: Python, port: int) -> None:
    """A cache of one's own is used, and the methods are those of ZEO's interfaces."""
    from ZEO.interfaces import IClientCache, IServeable

    expected = [*sorted(IClientCache), *sorted(IServeable)]
    printed = python(
        f"""if True:
        import ZODB, ZEO, zope.interface
        from ZEO.interfaces import IClientCache, IServeable
        print(*sorted(IClientCache), *sorted(IServeable))
        @zope.interface.implementer(IClientCache)
        class Cache:
            def __init__(self): self.tid, self.held = None, {{}}
            def close(self): pass
            def load(self, oid): return self.held.get(oid)
            def __len__(self): return len(self.held)
            def store(self, oid, start_tid, end_tid, data):
                if end_tid is None: self.held[oid] = data, start_tid
            def loadBefore(self, oid, tid): return None
            def invalidate(self, oid, tid): self.held.pop(oid, None)
            def getLastTid(self): return self.tid
            def setLastTid(self, tid): self.tid = tid
            def clear(self): self.held.clear()
        cache = Cache()
        db = ZEO.DB({port}, cache=cache)
        with db.transaction() as connection: connection.root()['x'] = 1
        print(len(cache), cache.tid == db.lastTransaction())
        db.close()
        """
    )
    assert printed.splitlines() == [" ".join(expected), "1 True"]


def test_stale_caches_are_announced_as_zeos(python: Python, tmp_path: Path) -> None:
    printed = python(
        """if True:
        import ZEO, zope.event
        from ZEO.interfaces import StaleCache
        address, stop = ZEO.server()
        def commit(**arguments):
            db = ZEO.DB(address, **arguments)
            with db.transaction() as connection:
                connection.root()['x'] = 1
            db.close()
        commit(client='kept')
        commit()
        heard = []
        zope.event.subscribers.append(heard.append)
        storage = ZEO.client(address, client='kept', drop_cache_rather_verify=True)
        print([type(event) is StaleCache for event in heard], heard[0].storage is storage)
        storage.close()
        stop()
        """
    )
    assert printed == "[True] True\n"


def test_whatever_opened_it_is_a_client_storage(python: Python, port: int) -> None:
    """Also what Zeolith's own ways open; a subclass of an application's has only its own."""
    printed = python(
        f"""if True:
        import zeolith, ZODB.config, ZODB.MappingStorage
        from ZEO.ClientStorage import ClientStorage
        class Mine(ClientStorage):
            pass
        section = '%import ZEO\\n<{{0}}>\\nserver {port}\\n</{{0}}>'
        storages = [
            ClientStorage({port}),
            zeolith.ClientStorage({port}),
            ZODB.config.storageFromString(section.format('clientstorage')),
            ZODB.config.storageFromString(section.format('zeolith')),
            Mine({port}),
            ZODB.MappingStorage.MappingStorage(),
        ]
        print(*(isinstance(storage, ClientStorage) for storage in storages))
        print(*(isinstance(storage, Mine) for storage in storages))
        for storage in storages: storage.close()
        """
    )
    assert printed == "True True True True True False\nFalse False False False True False\n"


def test_the_polls_that_zodb_passes_unasked_are_not_used(python: Python, port: int) -> None:
    """With them a client would be away for minutes after its server was; others are used."""
    printed = python(
        f"""if True:
        from ZEO.ClientStorage import ClientStorage
        for polls in ((5, 300), (2, 300), (5, 60), (1, None), (10, 300)):
            storage = ClientStorage(
                {port}, min_disconnect_poll=polls[0], max_disconnect_poll=polls[1])
            print(storage._options.min_poll, storage._options.max_poll)
            storage.close()
        """
    )
    assert printed == "0.05 5.0\n2.0 5.0\n0.05 60.0\n1.0 5.0\n10.0 10.0\n"


def test_what_is_not_there_says_so(dropin: Site, tmp_path: Path) -> None:
    said = dropin.run("-c", "import ZEO.StorageServer", cwd=tmp_path, status=1).stderr
    assert "ImportError: ZEO.StorageServer is the inside of ZEO's server" in said
    said = dropin.run("-c", "import ZEO.cache", cwd=tmp_path, status=1).stderr
    assert "ModuleNotFoundError: No module named 'ZEO.cache'" in said
