"""Recorded sessions, what is done to them, and how a fuzzer of sessions is run.

A session is the frames that one side sends on one connection.  The corpus has one file for each,
with a frame in hexadecimal on each line; lines that begin with ``#`` are comments.  What breaks an
invariant is written there too, so that it is tried first from then on.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

Session: TypeAlias = list[bytes]
"""Payloads of frames, or of what follows one another without frames."""

CORPUS: Final = Path(__file__).parent / "corpus"

_MOST: Final = 64
"""Frames of a session."""

_BYTES: Final = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\0" * 8, b"\xff" * 8, b"\x90", b"N.")


def load(directory: Path) -> dict[str, Session]:
    """Return the sessions in *directory* by name."""
    return {
        path.stem: [
            bytes.fromhex(line)
            for line in path.read_text(encoding="ascii").splitlines()
            if line and not line.startswith("#")
        ]
        for path in sorted(directory.glob("*.hex"))
    }


def save(directory: Path, name: str, session: Session, comment: str) -> Path:
    """Write *session* into *directory*; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.hex"
    lines = [f"# {comment}", *(frame.hex() for frame in session)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def mutate(choice: random.Random, session: Session, others: Sequence[Session]) -> Session:
    """Return *session* with one random change; bytes change more often than frames."""
    frames = list(session)
    at = choice.randrange(len(frames)) if frames else 0
    match choice.randrange(10):
        case 0 if frames:
            del frames[at]
        case 1 if frames:
            frames.insert(at, choice.choice(frames))
        case 2 if len(frames) > 1:
            other = choice.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        case 3:
            other_session = choice.choice(others)
            if other_session:
                frames.insert(at, choice.choice(other_session))
        case _ if frames:
            frames[at] = mutate_bytes(choice, frames[at])
    return frames[:_MOST]


def mutate_bytes(choice: random.Random, data: bytes) -> bytes:
    """Return *data* with one random change."""
    at = choice.randrange(len(data) + 1)
    to = min(len(data), at + choice.choice((1, 1, 2, 4, 8)))
    match choice.randrange(5):
        case 0:
            return data[:at] + choice.randbytes(to - at) + data[to:]
        case 1:
            return data[:at] + choice.choice(_BYTES) + data[to:]
        case 2:
            return data[:at] + choice.choice(_BYTES) + data[at:]
        case 3:
            return data[:at] + data[to:]
        case _:
            return data[:to] + data[at:to] * choice.choice((1, 2, 100)) + data[to:]


def in_pieces(choice: random.Random, data: bytes) -> list[bytes]:
    """Return *data* as it might arrive."""
    pieces = []
    while data:
        size = choice.choice((1, 3, 4, 5, 50, 1000, 1 << 16, 1 << 16))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def fuzz(
    corpus: dict[str, Session],
    check: Callable[[Session, random.Random], None],
    seconds: float,
    seed: int,
    broken: Callable[[Session, BaseException], None],
) -> int:
    """Check the corpus, then random changes of it, for *seconds*; return how many sessions.

    :param check: raises if its session breaks the invariant.
    :param broken: told of the session that does.
    """
    choice = random.Random(seed)
    sessions = list(corpus.values())
    count = 0

    def run(session: Session) -> None:
        nonlocal count
        count += 1
        try:
            check(session, choice)
        except BaseException as error:
            broken(session, error)
            raise

    for session in sessions:
        run(session)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        session = choice.choice(sessions)
        for _ in range(choice.choice((1, 1, 2, 3, 8))):
            session = mutate(choice, session, sessions)
        run(session)
    return count


def main(
    argv: Sequence[str],
    what: str,
    directory: Path,
    check: Callable[[Session, random.Random], None],
) -> int:
    """Run a fuzzer with the arguments ``[seconds [seed]]``; return the exit status."""
    seconds = float(argv[1]) if len(argv) > 1 else 30.0
    seed = int(argv[2]) if len(argv) > 2 else random.randrange(2**32)
    print(f"fuzzing {what} for {seconds:g} s, seed {seed}")

    def broken(session: Session, error: BaseException) -> None:
        digest = hashlib.sha256(b"".join(session)).hexdigest()[:12]
        comment = f"{type(error).__name__}: {error}".splitlines()[0]
        path = save(directory, f"found-{digest}", session, comment)
        print(f"broken by {path}", file=sys.stderr)

    try:
        count = fuzz(load(directory), check, seconds, seed, broken)
    except Exception:  # noqa: BLE001 - whatever it is, it is the finding
        traceback.print_exc()
        return 1
    print(f"{count} sessions, the invariant holds")
    return 0
