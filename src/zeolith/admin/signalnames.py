"""Signals as people write them."""

from __future__ import annotations

import signal

from ..errors import ConfigurationError


def signal_named(text: str) -> signal.Signals:
    """Return the signal *text*: ``USR2``, ``sigusr2``, ``12``.

    :raises ConfigurationError: there is none.
    """
    name = text.upper()
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise ConfigurationError(
            "kill", f"there is no signal {text!r}", "use a name such as HUP, or a number"
        ) from None
