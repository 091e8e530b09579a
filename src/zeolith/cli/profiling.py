"""Running under Python's profiler."""

from __future__ import annotations

from cProfile import Profile

from ..errors import ConfigurationError


class ProfileFile:
    """A profile of the block that it is the context of, in this thread, for :mod:`pstats`.

    :param path: the file, written when the block ends.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._profile = Profile()

    def check(self) -> None:
        """:raises ConfigurationError: the file cannot be written."""
        try:
            # Who waited an hour for a profile must not learn only then that it has no place.
            open(self._path, "ab").close()
        except OSError as error:
            raise ConfigurationError(
                f"profile {self._path}",
                f"cannot be written: {error.strerror}",
                "name a file in a directory that this user may write to",
            ) from error

    def __enter__(self) -> None:
        self._profile.enable()

    def __exit__(self, *_: object) -> None:
        self._profile.disable()
        self._profile.dump_stats(self._path)
