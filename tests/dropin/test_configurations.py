"""Configurations that were written for ZEO, word for word, with ``zeolith-zeo``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support import users
from tests.support.certificates import Certificates
from tests.support.sites import Site
from tests.support.users import PASSWORD

import zeolith

Python = Callable[[str], str]

# What it stores is seen by a client of this process; the storage's class and name are printed.
USE = """
import sys, ZODB.config
db = ZODB.config.databaseFromURL('zodb.conf')
with db.transaction() as connection: connection.root()['told'] = 'by a section'
print(type(db.storage).__module__, db.storage.getName())
db.close()
"""

# The forms that plone.recipe.zope2instance 9 gives the section: its values, its blanks, its order.
RECIPE = """
%define INSTANCE {directory}
<zodb_db main>
    # Main database
    cache-size 30000
    # Blob-enabled ZEOStorage database
    <zeoclient>
      read-only false
      read-only-fallback false
      blob-dir {directory}/blobcache
      shared-blob-dir no

      server 127.0.0.1:{port}

      server 127.0.0.1:{port}

      storage 1
      name zeostorage
      cache-size 128MB
      blob-cache-size 1GB
      blob-cache-size-check 20
      {login}
      var {directory}
      client instance1
      min-disconnect-poll 5
      max-disconnect-poll 60
      drop-cache-rather-verify false
    </zeoclient>
    mount-point /
</zodb_db>
"""

SCHEMA = """
<schema>
  <import package="ZODB"/>
  <sectiontype name="zodb_db" extends="zodb" datatype="ZODB.config.ZODBDatabase">
    <key name="mount-point"/>
  </sectiontype>
  <multisection type="zodb_db" name="+" attribute="databases"/>
</schema>
"""


def read(port: int) -> object:
    connection = zeolith.connection(port)
    value: object = connection.root().get("told")
    connection.close()
    return value


def use(python: Python, directory: Path, section: str) -> str:
    (directory / "zodb.conf").write_text(section)
    return python(USE)


def test_zodbs_own_section(python: Python, port: int, tmp_path: Path) -> None:
    section = f"<zodb>\n<zeoclient>\nserver localhost:{port}\n</zeoclient>\n</zodb>"
    assert use(python, tmp_path, section).startswith("ZEO.ClientStorage [('localhost', ")
    assert read(port) == "by a section"


def test_zodbs_own_section_with_all_its_keys(python: Python, port: int, tmp_path: Path) -> None:
    section = f"""
        <zodb>
          <zeoclient>
            server localhost:{port}
            server {tmp_path}/nobody.sock
            blob-dir blobs
            shared-blob-dir yes
            blob-cache-size 10MB
            blob-cache-size-check 50
            storage 1
            cache-size 10MB
            name mine
            client kept
            var {tmp_path}
            min-disconnect-poll 1
            max-disconnect-poll 10
            wait on
            read-only off
            read-only-fallback on
            drop-cache-rather-verify on
            client-label here
          </zeoclient>
        </zodb>
        """
    assert use(python, tmp_path, section) == "ZEO.ClientStorage mine (connected)\n"
    assert read(port) == "by a section"
    assert (tmp_path / "kept-1.zec").exists()


def test_zeos_own_section(python: Python, port: int, tmp_path: Path) -> None:
    """All keys of ZEO 6.2; among them some that ZEO says to ignore."""
    section = f"""
        %import ZEO
        <zodb>
          <clientstorage>
            server localhost:{port}
            cache-size 10MB
            cache-path {tmp_path}/main.zec
            blob-dir blobs
            shared-blob-dir yes
            blob-cache-size 10MB
            blob-cache-size-check 50
            read-only off
            read-only-fallback off
            server-sync on
            wait-timeout 5
            client-label here
            storage 1
            name mine
          </clientstorage>
        </zodb>
        """
    assert use(python, tmp_path, section) == "zeolith.client.storage mine (connected)\n"
    assert read(port) == "by a section"
    assert (tmp_path / "main.zec").exists()


def test_both_imports_in_one_file(python: Python, port: int, tmp_path: Path) -> None:
    section = (
        f"%import ZEO\n%import zeolith\n<zodb>\n<clientstorage>\nserver localhost:{port}\n"
        "</clientstorage>\n</zodb>"
    )
    use(python, tmp_path, section)
    assert read(port) == "by a section"


def test_tls(python: Python, tmp_path: Path) -> None:
    """``<clientstorage>`` with ``<ssl>``; and that it checks whom it talks to."""
    made = Certificates(tmp_path)
    address, stop = zeolith.server(
        zeo_conf=f"<zeo>\naddress 127.0.0.1:0\n<ssl>\ncertificate {made.issue('localhost')}\n"
        f"authenticate {made.root}\n</ssl>\n</zeo>"
    )
    section = f"""
        %import ZEO
        <zodb>
          <clientstorage>
            server 127.0.0.1:{address[1]}
            wait-timeout 5
            name mine
            <ssl>
              certificate {made.issue("client")}
              authenticate {made.root}
              check-hostname true
              server-hostname {{}}
            </ssl>
          </clientstorage>
        </zodb>
        """
    try:
        said = use(python, tmp_path, section.format("localhost.example"))
        assert said == "zeolith.client.storage mine (connected)\n"
        refused = (
            "from ZEO.Exceptions import ClientDisconnected\n"
            "try: exec({!r})\n"
            "except ClientDisconnected as error: print(error)"
        )
        (tmp_path / "zodb.conf").write_text(section.format("other.example"))
        assert "other.example" in python(refused.format(USE))
    finally:
        stop()


def test_what_the_recipe_of_zope_writes(python: Python, port: int, tmp_path: Path) -> None:
    (tmp_path / "schema.xml").write_text(SCHEMA)
    (tmp_path / "zope.conf").write_text(RECIPE.format(directory=tmp_path, port=port, login=""))
    program = """if True:
        import ZConfig
        schema = ZConfig.loadSchema('schema.xml')
        config, _ = ZConfig.loadConfig(schema, 'zope.conf')
        db = config.databases[0].open()
        with db.transaction() as connection: connection.root()['told'] = 'by the recipe'
        print(db.storage.getName(), db.storage._options.max_poll)
        db.close()
        """
    assert python(program) == "zeostorage (connected) 60.0\n"
    assert read(port) == "by the recipe"
    assert (tmp_path / "instance1-1.zec").exists()
    assert (tmp_path / "blobcache").is_dir()


def test_the_password_that_it_writes(python: Python, tmp_path: Path) -> None:
    """ZEO 5 and 6 ignore it; at a server that knows its users it is used."""
    users.write(tmp_path / "users", users.entry("plone", "all"))
    address, stop = zeolith.server(zeo_conf={"authentication_database": tmp_path / "users"})
    login = f"realm ZEO\n      username plone\n      password {PASSWORD}"
    conf = RECIPE.format(directory=tmp_path, port=address[1], login=login)
    section = conf[conf.index("<zeoclient>") : conf.index("</zeoclient>") + len("</zeoclient>")]
    try:
        use(python, tmp_path, f"<zodb>\n{section}\n</zodb>")
    finally:
        stop()


def test_zodburi(python: Python, port: int, tmp_path: Path) -> None:
    """``zeo://`` with all of its keys that go together, and ``zeolith://``."""
    address, stop = zeolith.server(port=str(tmp_path / "zeo.sock"))
    try:
        printed = python(
            f"""if True:
            import ZODB, zodburi
            def use(uri):
                factory, keywords = zodburi.resolve_uri(uri)
                db = ZODB.DB(factory(), **keywords)
                with db.transaction() as connection: connection.root()['told'] = 'by a URI'
                print(type(db.storage).__module__, db.storage.getName(), db.pool.size)
                db.close()
            use('zeo://localhost:{port}?storage=1&connection_pool_size=3&wait_timeout=5&name=a'
                '&cache_size=10MB&client=kept&var=.&wait=1&read_only=0&read_only_fallback=1'
                '&min_disconnect_poll=1&max_disconnect_poll=3&debug=1&wait_for_server_on_startup=0'
                '&drop_cache_rather_verify=1&blob_dir=blobs&shared_blob_dir=1&blob_cache_size=1KB'
                '&blob_cache_size_check=5&client_label=b')
            use('zeo://{address}?name=c')
            use('zeolith://localhost:{port}/?storage=1&connection_pool_size=3&name=d&compression=0')
            """
        )
    finally:
        stop()
    assert printed == (
        "ZEO.ClientStorage a (connected) 3\n"
        "ZEO.ClientStorage c (connected) 7\n"
        "zeolith.client.storage d (connected) 3\n"
    )
    assert read(port) == "by a URI"


def test_servers_in_one_call(python: Python, dropin: Site, tmp_path: Path) -> None:
    """``ZEO.server()`` with what ZEO's takes, in a thread and in a process."""
    printed = python(
        """if True:
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format='%(message)s')
        import ZEO
        def use(*args, **kw):
            address, stop = ZEO.server(*args, **kw)
            db = ZEO.DB(address)
            with db.transaction() as connection:
                root = connection.root()
                root['visits'] = root.get('visits', 0) + 1
                print(root['visits'])
            db.close()
            stop()
        use()
        use('Data.fs', 'blobs')
        use(path='Data.fs', threaded=False, start_timeout=30, name='x', log='server.log')
        use('ignored.fs', storage_conf='<filestorage>\\npath Data.fs\\n</filestorage>')
        use('Data.fs', zeo_conf='<zeo>\\naddress 127.0.0.1:0\\n</zeo>', port=1)
        use('Data.fs', zeo_conf=dict(invalidation_queue_size=3), port=None, start_timeout=5)
        use('Data.fs', protocol=b'M5', port=('127.0.0.1', 0))
        """
    )
    assert printed.splitlines() == [
        "1",
        "1",
        "2",
        "path has no effect: storage_conf says what is served",
        "3",
        "port has no effect: zeo_conf has an address",
        "4",
        "start_timeout has no effect on a server in a thread",
        "5",
        "6",
    ]
    assert not (tmp_path / "ignored.fs").exists()
