"""A server in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .server import Server


def start_in_thread(server: Server, name: str = "zeolith-server") -> Callable[[], None]:
    """Run *server* in a thread; return when it listens.

    :param name: of the thread.
    :returns: a function that stops it and waits until its storages are closed.
    :raises Exception: whatever :meth:`Server.run` raises before it listens.
    """
    ready = threading.Event()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            server.run(on_listening=lambda address: ready.set())
        except BaseException as error:
            if ready.is_set():
                raise
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    ready.wait()
    if failure:
        thread.join()
        raise failure[0]

    def stop() -> None:
        server.stop()
        thread.join()

    return stop
