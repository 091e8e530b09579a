"""The codec for each coding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .codec import Codec, MsgpackCodec, PickleCodec
from .framing import MAX_PAYLOAD
from .greeting import Coding
from .limits import Limits
from .messages import Form
from .own import OwnCodec

_CODECS: Final[Mapping[Coding, type[PickleCodec | MsgpackCodec | OwnCodec]]] = {
    cls.coding: cls for cls in (PickleCodec, MsgpackCodec, OwnCodec)
}


def make_codec(
    coding: Coding,
    incoming: Mapping[str, Form],
    limits: Limits,
    max_payload: int = MAX_PAYLOAD,
) -> Codec:
    """Return the codec for *coding*.

    :param incoming: the requests that the peer may make, by wire name.
    :param limits: what is accepted from the peer.
    :param max_payload: bytes of the longest payload that the peer accepts, as far as is known.
    """
    return _CODECS[coding](incoming, limits, max_payload)
