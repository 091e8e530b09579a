"""The greatest resident memory that a process has had, as Linux counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FORGET_PEAK: Final = "5"
"""What ``clear_refs`` takes for: the peak is from now on."""


def forget_peak(pid: int) -> None:
    """Have the peak of the process *pid* begin anew.

    :raises OSError: the system has no such thing, or the process is another user's.
    """
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)


def peak_memory(pid: int) -> int:
    """Return the peak of the process *pid* in bytes.

    :raises OSError: as :func:`forget_peak`.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    _, kilobytes, _ = line.split()
    return int(kilobytes) * 1024
