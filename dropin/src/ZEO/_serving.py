"""``ZEO.server()``: Zeolith's, with what ZEO takes without using it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import zeolith
from zeolith.config.address import Address
from zeolith.standalone import Stop

logger = logging.getLogger(__name__)


def serve(
    path: str | None,
    blob_dir: str | None,
    storage_conf: str | None,
    zeo_conf: object,
    port: int | Address | None,
    threaded: bool,
    others: Mapping[str, Any],
) -> tuple[Address, Stop]:
    """Start a server, see :func:`ZEO.server`.

    :param others: further arguments of :func:`zeolith.server`, by name.
    """
    others = dict(others)
    if storage_conf is not None and path is not None:
        logger.warning("path has no effect: storage_conf says what is served")
        path = None
    if zeo_conf is not None and not isinstance(zeo_conf, Mapping) and port:
        logger.warning("port has no effect: zeo_conf has an address")
        port = None
    if threaded and others.pop("start_timeout", None) is not None:
        logger.warning("start_timeout has no effect on a server in a thread")
    return zeolith.server(
        path, blob_dir, storage_conf, zeo_conf, port or 0, bool(threaded), **others
    )
