"""Short turns of a processor for the event loop.

A thread that wakes up on a busy machine waits until the one that runs has had its turn, which is
milliseconds.  The loop needs a processor for some microseconds at a time, and all clients wait for
it.  Linux (6.12 and later) lets a thread say that short turns suffice; for that it is let through
at once.  It gets no larger share of the processors, and that needs no privilege.

Source: ``sched_setattr(2)``; that ``sched_runtime`` is the length of a turn under the ordinary
policies is since Linux 6.12.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from struct import Struct
from typing import Final

logger = logging.getLogger(__name__)

TURN: Final = 100_000
"""Nanoseconds of a turn: the least that Linux takes."""

_NUMBERS: Final = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
"""By machine: ``sched_setattr`` and ``sched_getattr``, which C libraries did not have for long."""

_ATTRIBUTES: Final = Struct("=IIQiIQQQ")
"""``struct sched_attr``: its size, policy, flags, nice, priority, runtime, deadline, period."""

_ORDINARY: Final = 0
"""``SCHED_OTHER``."""

_RESET_ON_FORK: Final = 1
"""``SCHED_FLAG_RESET_ON_FORK``: threads that this one starts have turns as usual."""


def ask_for_short_turns() -> bool:
    """Ask for short turns for the calling thread; return whether it is going to have them.

    Nothing is changed for a thread that has been given another policy, or precedence.
    """
    numbers = _NUMBERS.get(platform.machine())
    if sys.platform != "linux" or numbers is None:
        return False
    set_attributes, get_attributes = numbers
    call = ctypes.CDLL(None, use_errno=True).syscall
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if call(get_attributes, 0, buffer, _ATTRIBUTES.size, 0):
        return False
    size, policy, flags, nice, priority, _, deadline, period = _ATTRIBUTES.unpack(buffer.raw)
    if policy != _ORDINARY or nice < 0:
        # The reset takes precedence from the threads that this one starts.
        return False
    flags |= _RESET_ON_FORK
    wanted = _ATTRIBUTES.pack(size, policy, flags, nice, priority, TURN, deadline, period)
    if call(set_attributes, 0, wanted, 0):
        logger.debug("short turns are refused: errno %d", ctypes.get_errno())
        return False
    call(get_attributes, 0, buffer, _ATTRIBUTES.size, 0)
    return bool(_ATTRIBUTES.unpack(buffer.raw)[5] == TURN)
