"""How messages look in text: one line each, shortened.

Records, blobs and whatever else is bytes are shown by their length only, unless asked for; object
and transaction ids in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..types import MAX_TID
from . import messages as m
from .additions import NAMES, OWN_CLIENT_REQUESTS, OWN_SERVER_REQUESTS
from .compression import COMPRESSED, EXTRA, is_available
from .greeting import Coding
from .loadrequests import LoadedMany
from .login import LoginReply, LoginStep
from .peers import Greeted, Hello, Inquired, Probe, Violated, Welcomed
from .transcript import Answered, Encrypted, Entry, TooLong

MAX_ITEMS: Final = 6
"""Items of a list or a map that are shown: enough to see what it is a list of."""

MAX_TEXT: Final = 120
"""Characters of a text that are shown, and bytes of data where data are."""

MAX_LINE: Final = 1_000
"""Characters of a description: messages nest, so the limits above alone do not keep it short."""

_SAMPLE: Final = bytes(8)

_ID_NAMES: Final = frozenset({"oid", "oids", "tid", "serial", "serials", "next", "trans_id", "uid"})
"""Names of what are ids wherever they have their length: arguments that the protocol does not
check, and keys of maps."""

_ID_SIZES: Final = (8, m.UID_SIZE)
"""Bytes of an object's or a transaction's id, and of the unique one of a transaction."""

_TEXT_NAMES: Final = frozenset({"user", "description", "label", "user_name"})
"""Names of what is written for people, although it travels as bytes."""

_ID_ANSWERS: Final = frozenset(
    {m.Register, m.LastTransaction, m.GetInvalidations, m.GetTid, m.NewOids, m.TpcFinish, m.Vote}
)
"""Calls whose answers consist of ids."""


def _takes_ids(check: m.Check) -> bool:
    """Tell whether *check* demands an id, or ids."""
    return any(
        check(right) and not check(wrong)
        for right, wrong in ((_SAMPLE, _SAMPLE + b"x"), ([_SAMPLE], [_SAMPLE + b"x"]))
    )


_IDS: Final[Mapping[type[Any], frozenset[str]]] = {
    form.cls: frozenset(
        name
        for name, check in zip(form.cls._fields, form.checks)
        if _takes_ids(check) or name in _ID_NAMES
    )
    for forms in (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)
    for form in forms.values()
}
"""Request → those of its arguments that are ids."""

_CODINGS: Final = {Coding.PICKLE: "Z5", Coding.MSGPACK: "M5", Coding.OWN: "Zeolith's own protocol"}


def kind_of(entry: Entry) -> str:
    """Return the kind of *entry* in one word."""
    match entry.event:
        case m.Reply():
            return "reply"
        case m.Fault():
            return "error"
        case Greeted():
            return "greeting"
        case Hello() | Welcomed():
            return "hello"
        case Inquired() | Probe():
            return "inquiry"
        case Answered():
            return "answer"
        case LoginStep() | LoginReply():
            return "log-in"
        case Violated():
            return "violation"
        case Encrypted():
            return "TLS"
        case TooLong():
            return "message"
        case event:
            return type(event).__name__.lower()


def name_of(entry: Entry) -> str:
    """Return the method that *entry* is about; its kind if it is about none."""
    match entry.event:
        case m.Call(_, request) | m.Notice(request):
            return NAMES[type(request)]
        case m.Reply(msgid, _) | m.Fault(msgid, _, _):
            asked = m.LoadBefore if _is_load(msgid, entry.asked) else entry.asked
            return f"{kind_of(entry)} to no call" if asked is None else NAMES[asked]
    return kind_of(entry)


def describe(entry: Entry, with_data: bool = False) -> str:
    """Return *entry* as one line of text.

    :param with_data: show bytes, too, as far as there is room.
    """
    text = "".join(_Describer(with_data).describe(entry))
    # The names of errors are a peer's, too, and must not feign lines.
    line = "".join(c if c.isprintable() else "?" for c in text[:MAX_LINE])
    return line if len(text) <= MAX_LINE else f"{line[:-1]}…"


def _is_load(msgid: Any, asked: type[Any] | None) -> bool:
    """Tell whether an answer is to a load: in Zeolith's own protocol its id says so alone."""
    return asked is m.LoadBefore or (
        asked is None
        and type(msgid) is tuple
        and len(msgid) == 2
        and all(type(each) is bytes and len(each) == 8 for each in msgid)
    )


class _Describer:
    def __init__(self, with_data: bool) -> None:
        self._with_data = with_data

    def describe(self, entry: Entry) -> Iterable[str]:
        match entry.event:
            case m.Call(msgid, request):
                if not isinstance(request, m.LoadBefore):
                    yield f"call {self._value(msgid, True)} "
                else:
                    yield "call "
                yield self._request(request)
            case m.Notice(request):
                yield f"notice {self._request(request)}"
            case m.Reply(msgid, value):
                yield f"reply {self._reply(msgid, value, entry.asked)}"
            case m.Fault(msgid, name, details):
                about = "" if entry.asked is None else f" to {NAMES[entry.asked]}"
                yield f"error {self._value(msgid, True)}{about}: {name[:MAX_TEXT]} "
                yield self._value(details, True)
            case Greeted(greeting):
                yield f"greeting {_CODINGS[greeting.coding]}"
                if greeting.is_zeolith:
                    spoken = ", ".join(map(str, greeting.versions[:MAX_ITEMS])) or "none"
                    yield f", a Zeolith server; versions of its own protocol: {spoken}"
            case Hello(coding, None):
                yield f"hello {_CODINGS[coding]}"
            case Hello(_, said) | Welcomed(said):
                assert said is not None
                yield f"hello {_CODINGS[Coding.OWN]} {self._fields('', said)}"
            case Inquired(inquiry):
                yield f"inquiry {self._fields(type(inquiry).__name__, inquiry)}"
            case Probe():
                yield "inquiry ruok"
            case LoginStep(data, mechanism):
                # What is in them helps whoever wants to guess the password.
                yield f"log-in {mechanism or 'goes on'}, {len(data)} bytes"
            case LoginReply(data, is_done, error):
                came_to = "succeeds" if is_done else error or "is challenged"
                yield f"log-in {came_to}, {len(data or b'')} bytes"
            case Answered(answer):
                yield f"answer {self._value(answer)}"
            case Violated(error):
                side = "client" if entry.is_from_client else "server"
                yield f"violation by the {side}: {str(error)[: 2 * MAX_TEXT]}"
            case Encrypted():
                yield "TLS: encrypted from here on, nothing can be shown"
            case TooLong(kind) if kind == COMPRESSED and not is_available():
                yield f"message that is compressed: to be shown it takes {EXTRA}"
            case TooLong(kind):
                yield "message that is too long to be shown"
                yield "" if kind is None else f", of kind {kind:#04x}"
            case event:
                yield self._fields(type(event).__name__, event).removesuffix("()").lower()

    def _reply(self, msgid: Any, value: Any, asked: type[Any] | None) -> str:
        if _is_load(msgid, asked):
            return self._loaded(msgid, value)
        name = "to no call" if asked is None else NAMES[asked]
        if isinstance(value, m.Committed):
            size = f"length={value.length}, size={value.size}"
            return f"{self._value(msgid, True)} {name}: {self._value(value.tid, True)}, {size}"
        return f"{self._value(msgid, True)} {name}: {self._value(value, asked in _ID_ANSWERS)}"

    def _loaded(self, msgid: Any, value: Any) -> str:
        key = self._key(msgid)
        if value is None:
            return f"Loaded({key}, nothing)"
        if type(value) is not tuple or len(value) != 3:
            return f"Loaded({key}, {self._value(value)})"
        data, start, end = value
        until = "" if end is None else f", end={self._value(end, True)}"
        return f"Loaded({key}, tid={self._value(start, True)}{until}, {self._value(data)})"

    def _key(self, msgid: Any) -> str:
        if type(msgid) is not tuple or len(msgid) != 2:
            return self._value(msgid, True)
        oid, before = msgid
        head = f"oid={self._value(oid, True)}"
        return head if before == MAX_TID else f"{head}, before={self._value(before, True)}"

    def _request(self, request: m.Request) -> str:
        cls = type(request)
        if isinstance(request, LoadedMany):
            tid, records = request
            loaded = (
                f"{self._value(oid, True)}: {self._value(data)}"
                for oid, _, _, data in _first(records)
            )
            shown = ", ".join([*loaded, *_rest(records)])
            return f"{NAMES[cls]}(tid={self._value(tid, True)}, {shown})"
        return self._fields(NAMES[cls], request, _IDS[cls])

    def _fields(self, name: str, values: Any, ids: frozenset[str] = frozenset()) -> str:
        defaults = values._field_defaults
        parts = (
            f"{field}={self._named(field, value, field in ids)}"
            for field, value in zip(values._fields, values)
            # What need not be said mostly is not.
            if value or field not in defaults or value != defaults[field]
        )
        return f"{name}({', '.join(parts)})"

    def _named(self, name: Any, value: Any, is_id: bool = False) -> str:
        if name in _TEXT_NAMES and type(value) is bytes:
            return self._value(value.decode("utf-8", "replace"))
        return self._value(value, is_id or name in _ID_NAMES)

    def _value(self, value: Any, is_id: bool = False) -> str:
        """Return *value* as text.

        :param is_id: eight bytes in it are ids.
        """
        if isinstance(value, bytes):
            return self._bytes(value, is_id)
        if isinstance(value, str):
            return repr(value) if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]!r}…"
        if isinstance(value, Mapping):
            items = (
                f"{self._value(key)}: {self._named(key, item, is_id)}"
                for key, item in _first(value.items())
            )
            return "{" + ", ".join([*items, *_rest(value)]) + "}"
        if isinstance(value, (tuple, list, set, frozenset)):
            items = (self._value(item, is_id) for item in _first(value))
            return "[" + ", ".join([*items, *_rest(value)]) + "]"
        text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else hex(value)
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"

    def _bytes(self, value: bytes, is_id: bool) -> str:
        if is_id and len(value) in _ID_SIZES:
            return f"{int.from_bytes(value, 'big'):#x}"
        if not self._with_data:
            return f"{len(value)} bytes"
        more = "" if len(value) <= MAX_TEXT else f"… {len(value)} bytes"
        return f"{value[:MAX_TEXT]!r}{more}"


def _first(values: Iterable[Any]) -> Iterable[Any]:
    return (value for value, _ in zip(values, range(MAX_ITEMS)))


def _rest(values: Any) -> list[str]:
    left = len(values) - MAX_ITEMS
    return [f"… {left} more"] if left > 0 else []
