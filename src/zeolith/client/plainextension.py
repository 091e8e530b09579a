"""Extension data of transactions, as the network brings it."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import UndecodableMessage
from ..protocol import pickles
from ..protocol.limits import DEFAULT_LIMITS

logger = logging.getLogger(__name__)


def plain_extension(tid: bytes, extension: bytes) -> dict[Any, Any]:
    """Return what the extension data of transaction *tid* say; nothing if that is not plain.

    :param extension: a pickle.
    """
    try:
        value = pickles.loads(extension, DEFAULT_LIMITS)
    except UndecodableMessage as error:
        logger.warning("extension data of transaction %s is not shown: %s", tid.hex(), error)
        return {}
    return value if type(value) is dict else {}
