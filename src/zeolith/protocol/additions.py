"""Requests that only Zeolith's own protocol has; ZEO's codings know nothing of them.

Each is a named tuple as those in :mod:`.messages` are.  :mod:`.own` has their numbers,
``docs/protocol.md`` what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .greeting import Coding
from .messages import CLIENT_REQUESTS, SERVER_REQUESTS, Form
from .streamrequests import STREAM_CLIENT_REQUESTS, STREAM_SERVER_REQUESTS

OWN_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    **SERVER_REQUESTS,
    **STREAM_SERVER_REQUESTS,
}
"""What a client may ask of a server in Zeolith's own protocol, by name."""

OWN_CLIENT_REQUESTS: Final[Mapping[str, Form]] = {
    **CLIENT_REQUESTS,
    **STREAM_CLIENT_REQUESTS,
}
"""What a server may tell a client in Zeolith's own protocol, by name."""

NAMES: Final[Mapping[type, str]] = {
    form.cls: form.name
    for table in (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)
    for form in table.values()
}
"""Names of all requests."""


def requests_to_server(coding: Coding) -> Mapping[str, Form]:
    """Return what a client may ask of a server in *coding*, by name."""
    return OWN_SERVER_REQUESTS if coding is Coding.OWN else SERVER_REQUESTS


def requests_to_client(coding: Coding) -> Mapping[str, Form]:
    """Return what a server may tell a client in *coding*, by name."""
    return OWN_CLIENT_REQUESTS if coding is Coding.OWN else CLIENT_REQUESTS
