"""Encoding and decoding alone: ``python -m benchmarks.bench_codec``.

No server takes part.  A step writes or reads one message; a *load* is the call and its answer, each
written once and read once; *loads* are 100 that are asked for together, each of them.  Zeolith's
own protocol stands beside the codings of ZEO's as Zeolith writes and reads them, with fixed layouts
for what is frequent, and beside ZEO 6.2's own functions.
Numbers are microseconds of the best of several rounds in one process; ratios are to our ``M5``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ZEO.asyncio.marshal import decoder, encoder

from zeolith.protocol.codec import Codec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE
from zeolith.protocol.greeting import ZEO_CODINGS, Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.loadrequests import LoadedMany
from zeolith.protocol.messages import (
    CLIENT_REQUESTS,
    SERVER_REQUESTS,
    Info,
    InvalidateTransaction,
    Notice,
    Request,
    Store,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.own import OwnCodec

OID, TID = b"\0" * 7 + b"\5", b"\3" * 8
MAX = b"\x7f" + b"\xff" * 7
KEY = (OID, MAX)
DATA = b"d" * 300
MANY = 100
OIDS = [number.to_bytes(8, "big") for number in range(MANY)]

Step = Callable[[], object]

_COMMIT: tuple[Request, ...] = (
    TpcBegin(7, b"user", b"/a/path", b"", None, " "),
    Store(OID, TID, DATA, 7),
    Info({"length": 100_000, "size": 123_456_789}),
    InvalidateTransaction(TID, [OID, TID, MAX]),
)


def zeolith_steps(coding: Coding) -> Mapping[str, list[Step]]:
    """Return what a load and a commit of one object cost in a codec of ours."""
    server = make_codec(coding, SERVER_REQUESTS, DEFAULT_LIMITS)
    client = make_codec(coding, CLIENT_REQUESTS, DEFAULT_LIMITS)
    call = client.load_before(*KEY)
    answer = server.loaded(KEY, DATA, TID, None)
    assert server.parse_load_before(call) == KEY
    assert client.parse_loaded(answer) == (KEY, (DATA, TID, None))
    commit: list[Step] = []
    for request in _COMMIT:
        if isinstance(request, TpcBegin) and coding is not Coding.OWN:
            request = request._replace(extension={})
        reader = client if isinstance(request, Info | InvalidateTransaction) else server
        commit += _both(lambda r=request: server.notice(r), reader.decode)  # type: ignore[misc]
        assert isinstance(reader.decode(server.notice(request)[HEADER_SIZE:]), Notice)
    for number, step in enumerate((Vote(7), TpcFinish(7)), 1000):
        commit += _both(lambda n=number, r=step: client.call(n, r), server.decode)  # type: ignore[misc]
    for number, value in ((1000, []), (1001, TID)):
        commit += _both(lambda n=number, v=value: server.reply(n, v), client.decode)  # type: ignore[misc]
    return {
        "load": [
            lambda: client.load_before(*KEY),
            lambda: server.parse_load_before(call),
            lambda: server.loaded(KEY, DATA, TID, None),
            lambda: client.parse_loaded(answer),
        ],
        "commit": commit,
        "loads": _loads(client, server),
    }


def _loads(client: Codec, server: Codec) -> list[Step]:
    """Return what :data:`MANY` loads cost that are asked for together."""
    calls = client.load_many(OIDS, MAX)
    if isinstance(server, OwnCodec):
        records = [(oid, TID, None, DATA) for oid in OIDS]
        answers = server.notice(LoadedMany(MAX, records))
        return [
            lambda: client.load_many(OIDS, MAX),
            lambda: server.decode(calls[HEADER_SIZE:]),
            lambda: server.notice(LoadedMany(MAX, records)),
            lambda: client.decode(answers[HEADER_SIZE:]),
        ]
    size = len(calls) // MANY
    payloads = [calls[at + HEADER_SIZE : at + size] for at in range(0, len(calls), size)]
    keys = [(oid, MAX) for oid in OIDS]
    replies = [server.loaded(key, DATA, TID, None)[HEADER_SIZE:] for key in keys]
    return [
        lambda: client.load_many(OIDS, MAX),
        lambda: [server.decode(payload) for payload in payloads],
        lambda: b"".join([server.loaded(key, DATA, TID, None) for key in keys]),
        lambda: [client.decode(payload) for payload in replies],
    ]


def _both(write: Callable[[], bytes], read: Callable[[bytes], object]) -> list[Step]:
    payload = write()[HEADER_SIZE:]
    return [write, lambda: read(payload)]


def zeo_steps(coding: Coding) -> Mapping[str, list[Step]]:
    """Return what the same load costs in ZEO's own functions."""
    encode: Any = encoder(coding.value)
    decode: Any = decoder(coding.value)
    call = encode(KEY, False, "loadBefore", KEY)
    answer = encode(KEY, 0, ".reply", (DATA, TID, None))
    return {
        "load": [
            lambda: encode(KEY, False, "loadBefore", KEY),
            lambda: decode(call),
            lambda: encode(KEY, 0, ".reply", (DATA, TID, None)),
            lambda: decode(answer),
        ]
    }


def measure(steps: list[Step], count: int = 20_000, rounds: int = 7) -> float:
    """Return the microseconds that all *steps* together take."""
    total = 0.0
    numbers = range(count)
    for step in [*steps, *[_nothing] * len(steps)]:
        best = float("inf")
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in numbers:
                step()
            best = min(best, time.perf_counter() - began)
        total += -best if step is _nothing else best
    return total / count * 1e6


def cost(work: str, steps: list[Step]) -> float:
    """Return the microseconds of *work*: of one load, one commit, or one of :data:`MANY` loads."""
    return measure(steps, 400) / MANY if work == "loads" else measure(steps)


def _nothing() -> None:
    pass


def main() -> int:
    """Print the table."""
    subjects = {f"zeolith {coding.name.lower()}": zeolith_steps(coding) for coding in Coding}
    subjects |= {f"zeo 6.2 {coding.name.lower()}": zeo_steps(coding) for coding in ZEO_CODINGS}
    base = {work: cost(work, steps) for work, steps in subjects["zeolith msgpack"].items()}
    print(f"{'':20}" + "".join(f"{work:>12} us{'ratio':>8}" for work in base))
    for name, works in subjects.items():
        row = f"{name:20}"
        for work, steps in works.items():
            found = cost(work, steps)
            row += f"{found:12.2f}   {found / base[work]:8.2f}"
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
