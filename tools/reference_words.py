"""What the reference of ``zeo.conf`` says beyond the schema: words for types, sections of others.

The sections that ZODB and ZConfig define are described here in our own words; whatever they define
must be described, and nothing else (see ``tests/config/test_reference.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TYPES: Final[Mapping[str, str]] = {
    # ZConfig's
    "boolean": "boolean",
    "byte-size": "size",
    "dotted-name": "dotted name",
    "existing-directory": "directory",
    "existing-dirpath": "path",
    "inet-address": "host:port",
    "integer": "whole number",
    "socket-address": "address",
    "socket-connection-address": "address",
    "string": "text",
    # of the schemas, by the name of the function
    "_logging_level": "level",
    "address": "address",
    "bucket": "text",
    "endpoint_url": "URL",
    "prefix": "text",
    "backoff_limit": "seconds",
    "conflict_resolution": "`off`, `in-process` or `worker`",
    "count": "whole number",
    "directory": "directory",
    "escaped_string": "text",
    "client_certificates": "`required`, `optional` or `none`",
    "compression": "`auto`, `on` or `off`",
    "event_loop": "`auto`, `uvloop` or `asyncio`",
    "executable": "path",
    "exit_codes": "whole numbers",
    "file_path": "path",
    "get_or_post": "`GET` or `POST`",
    "http_handler_url": "URL",
    "large_size": "size",
    "loads": "`auto`, `loop` or `workers`",
    "tls_version": "`1.2` or `1.3`",
    "trusted": "path",
    "log_format_style": "`classic`, `format`, `template` or `safe-template`",
    "logging_level": "level",
    "may_be": "boolean",
    "login_protocol": "word",
    "positive_count": "whole number",
    "positive_seconds": "duration",
    "seconds": "duration",
    "seconds_or_never": "duration",
    "silence": "duration",
    "server_address": "address",
    "size": "size",
    "socket_mode": "octal number",
    "socket_owner": "`USER`, `USER:GROUP` or `:GROUP`",
    "socket_path": "path",
    "syslog_facility": "word",
    "umask": "octal number",
    "words": "command",
}
"""Name of a datatype → what stands in the reference."""

SECTIONS: Final[Mapping[str, str]] = {
    "filestorage": "A database in a file that only grows, until it is packed. The usual choice.",
    "mappingstorage": "A database in memory, for tests: it is lost when the server ends.",
    "demostorage": (
        "Shows one storage and keeps what is committed in another. The storage called `changes` "
        "takes the changes, the other one is shown and stays as it is; what is left out is a "
        "`<mappingstorage>`."
    ),
    "blobstorage": (
        "Adds blobs to a storage that has none itself; `<filestorage>` has them with its own "
        "`blob-dir`."
    ),
    "zeoclient": (
        "The storage of another server, which this one passes on (fan-out). Opened with Zeolith's "
        "client; ZEO need not be installed. `<zeolith>` knows more keys, TLS among them."
    ),
    "eventlog": (
        "What is logged, and where. Without this section the log goes to standard error. Each of "
        "the sections in it is one place to which the log is written. Signal SIGUSR2 reopens the "
        "files."
    ),
    "logfile": (
        "In `<eventlog>`: a file, or with `STDOUT` and `STDERR` a stream. It can rotate itself: by "
        "size (`max-size`) or by time (`when`), keeping `old-files`."
    ),
    "syslog": "In `<eventlog>`: the system's log.",
    "email-notifier": "In `<eventlog>`: mail to somebody, best with `level error`.",
    "http-logger": "In `<eventlog>`: a web server, which gets a request for each line.",
}
"""Section of ZODB or ZConfig → what it is."""

_CLIENT_CONFIG: Final[Mapping[str, str]] = {
    "server": "Where the server listens: `HOST:PORT`, `PORT` of this host, or a path with a slash "
    "in it. May be given several times for servers of the same database.",
    "blob-dir": "Directory for the blobs in use. Without it blobs cannot be passed on.",
    "shared-blob-dir": "`blob-dir` is the other server's own directory, on a disk that both reach.",
    "blob-cache-size": "Bytes of blobs to keep in `blob-dir`; without it there is no limit.",
    "blob-cache-size-check": "After how many percent of `blob-cache-size` were added its limit is "
    "enforced; 10 unless given.",
    "storage": "Name of the storage at the other server.",
    "cache-size": "Size of the cache of object records.",
    "name": "What to call the storage in logs; the address unless given.",
    "client": "Name of a cache that outlives the process. Not available yet.",
    "var": "Directory for the cache's file.",
    "min-disconnect-poll": "Seconds before the second attempt to connect; 0.05 unless given.",
    "max-disconnect-poll": "Longest pause between attempts in seconds; 5 unless given.",
    "wait": "Opening waits for the other server, up to 30 seconds.",
    "read-only": "Connect read-only.",
    "read-only-fallback": "Take a read-only server while no writable one can be reached.",
    "username": "The user to log in as at the other server; needs `password`.",
    "password": "The password; `$(NAME)` takes it from the environment.",
    "realm": "What the realm of the other server's users must be called.",
    "drop-cache-rather-verify": "After an absence drop the cache without asking what was missed.",
    "client-label": "Names this client in the other server's log and status.",
}

_HANDLER: Final[Mapping[str, str]] = {
    "formatter": "Class that makes lines of records, in place of `logging.Formatter`. "
    "`zeolith.config.logs.JsonFormatter` writes JSON.",
    "dateformat": "How dates are written, as for Python's `time.strftime`.",
    "level": "Leave out what is less important than this.",
    "style": "How `format` names the parts of a record: `classic` is `%(name)s`, `format` is "
    "`{name}`, the others are `$name`.",
    "arbitrary-fields": "Let `format` name parts that not every record has.",
    "format": "What a line consists of.",
}

KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "filestorage": {
        "path": "The file. What belongs to it (index, lock, old copy) lies beside it.",
        "blob-dir": "Directory for blobs; made if it does not exist. Without it there are none.",
        "create": "Empties the file at each start. For tests.",
        "read-only": "Opens the file for reading only; use the key of `<zeo>` to tell clients.",
        "quota": "Refuse commits that would make the file larger.",
        "packer": "Dotted name of a function that packs in place of ZODB's own.",
        "pack-gc": "Whether a pack removes objects that nothing refers to. Objects that only "
        "another database refers to need `false`.",
        "pack-keep-old": "Whether a pack keeps the file as it was, with `.old` added to its name.",
    },
    "mappingstorage": {"name": "What the storage is called in logs."},
    "demostorage": {"name": "What the storage is called in logs."},
    "blobstorage": {"blob-dir": "Directory for the blobs."},
    "zeoclient": _CLIENT_CONFIG,
    "eventlog": {"level": "The least important level that is logged."},
    "logfile": {
        **_HANDLER,
        "path": "The file, or `STDOUT` or `STDERR`.",
        "old-files": "How many old files to keep when the file rotates itself; needed for that.",
        "max-size": "Rotate when the file has this size; 0: not by size.",
        "when": "Rotate by time: `S`, `M`, `H`, `D`, `W0` to `W6` or `midnight`.",
        "interval": "Number of these times between two rotations; 1 if `when` is given.",
        "encoding": "Encoding of the file; the system's unless given.",
        "delay": "Do not make the file before the first line.",
    },
    "syslog": {
        **_HANDLER,
        "facility": "Under which facility lines are filed.",
        "address": "Where the log daemon listens; a path with a slash in it is a Unix socket.",
    },
    "email-notifier": {
        **_HANDLER,
        "from": "Address of the sender.",
        "to": "Address of a receiver. May be given several times.",
        "subject": "Subject of the mails.",
        "smtp-server": "Server that takes the mails.",
        "smtp-username": "Name for the log-in there; needs `smtp-password`.",
        "smtp-password": "Password for the log-in there; needs `smtp-username`.",
    },
    "http-logger": {
        **_HANDLER,
        "url": "Where the requests go.",
        "method": "Their method.",
    },
}
"""Section of ZODB or ZConfig → its keys → what they mean."""

LEFT_OUT: Final = frozenset({"win32-eventlog", "fullstorage", "minimalstorage", "zodb", "logger"})
"""Sections that the schema knows, but that have no use here: for Windows, for Berkeley DB, for
applications, for single loggers, of which a server has no use."""

EXAMPLES: Final[Mapping[str, str]] = {
    "zeo": """
<zeo>
  address db.example.org:8100
  monitor-address 8101
  invalidation-queue-size 1000
  transaction-timeout 1m
  max-message-size 512MB
  <ssl>
    certificate /etc/zeolith/server.pem
    key /etc/zeolith/server.key
    authenticate /etc/zeolith/clients.pem
  </ssl>
</zeo>
""",
    "filestorage": """
<filestorage main>
  path /srv/app/var/Data.fs
  blob-dir /srv/app/var/blobs
  pack-keep-old false
</filestorage>
""",
    "mappingstorage": """
<mappingstorage temp>
</mappingstorage>
""",
    "demostorage": """
<demostorage demo>
  <filestorage>
    path /srv/app/var/Data.fs
    read-only true
  </filestorage>
  <filestorage changes>
    path /srv/app/var/Changes.fs
  </filestorage>
</demostorage>
""",
    "blobstorage": """
<blobstorage 1>
  blob-dir /srv/app/var/blobs
  <filestorage>
    path /srv/app/var/Data.fs
  </filestorage>
</blobstorage>
""",
    "tieredblobs": """
<tieredblobs 1>
  bucket example-blobs
  prefix shop
  region eu-central-1
  cache-size 20GB
  <filestorage>
    path /srv/app/var/Data.fs
    blob-dir /srv/app/var/blobs
  </filestorage>
</tieredblobs>
""",
    "zeolith": """
<zeolith 1>
  server db.example.org:8100
  storage main
  cache-size 1GB
  blob-dir /srv/app/var/blobcache
  client-label hub
  <ssl>
    certificate /etc/zeolith/client.pem
    authenticate /etc/zeolith/server.pem
  </ssl>
</zeolith>
""",
    "zeoclient": """
<zeoclient 1>
  server db.example.org:8100
  storage main
  cache-size 1GB
  blob-dir /srv/app/var/blobcache
</zeoclient>
""",
    "eventlog": """
<eventlog>
  level info
  <logfile>
    path /srv/app/log/zeo.log
    max-size 100MB
    old-files 5
  </logfile>
  <email-notifier>
    from zeo@example.org
    to operator@example.org
    level error
  </email-notifier>
</eventlog>
""",
    "runner": """
<runner>
  directory /srv/app/var
  socket-name /srv/app/var/zeo.zdsock
  transcript /srv/app/log/zeo.out
  backoff-limit 30
  forever true
</runner>
""",
}
"""Section → how it is used."""
