"""Interrupts at a chosen step: what a signal handler that raises (Ctrl-C, a time limit) does.

It does so between two steps of the main thread.  Here a trace function does the same, at a place
that the test chooses.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Collection
from functools import cache
from types import CodeType, FrameType, ModuleType
from typing import Any

CHECKED = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
"""Instructions after which the interpreter looks for signals.  It does not within ``with lock``:
between taking the lock and being able to give it back."""


@cache
def instructions(code: CodeType) -> dict[int, str]:
    """Return the instructions of *code* by their offsets."""
    return {found.offset: found.opname for found in dis.get_instructions(code)}


def interrupted_at(
    step: int, action: Callable[[], object], modules: Collection[ModuleType]
) -> bool:
    """Run *action*; raise KeyboardInterrupt at that step in the code of *modules*.

    :returns: whether it got there.
    """
    files = {module.__file__ for module in modules}
    count = 0
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "call":
            # In this order: from Python 3.13 on the second looks for the first.
            frame.f_trace = trace
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            before, last[frame] = last.get(frame), frame.f_lasti
            if before is not None and instructions(frame.f_code)[before] in CHECKED:
                count += 1
                if count == step:
                    raise KeyboardInterrupt
        return trace

    outer = sys.gettrace()
    # From Python 3.12 on events for instructions must have been asked for somewhere before.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(outer)
        last.clear()
    return count >= step
