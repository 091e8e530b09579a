"""Records of TLS 1.3 made by hand: the updates of keys that Python's ``ssl`` cannot ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_DATA: Final = b"\x17"
_HANDSHAKE: Final = b"\x16"
_UPDATE_REQUESTED: Final = b"\x18\x00\x00\x01\x01"


class Sealer:
    """Encrypts what one side says after the handshake, with TLS_AES_256_GCM_SHA384 and in place of
    that side, which has said nothing yet.

    :param keylog: file that a context's ``keylog_filename`` names.
    :param side: ``CLIENT`` or ``SERVER``.
    """

    def __init__(self, keylog: Path, side: str) -> None:
        lines = [line.split() for line in keylog.read_text().splitlines()]
        secrets = [line[2] for line in lines if line[:1] == [f"{side}_TRAFFIC_SECRET_0"]]
        self._secret = bytes.fromhex(secrets[-1])
        self._sent = 0

    def say(self, data: bytes) -> bytes:
        """Return the record with *data*."""
        return self._seal(data + _DATA)

    def update_keys(self) -> bytes:
        """Return the record that changes our keys and asks the other side to change its own."""
        record = self._seal(_UPDATE_REQUESTED + _HANDSHAKE)
        self._secret = self._derive(b"traffic upd", 48)
        self._sent = 0
        return record

    def _seal(self, inner: bytes) -> bytes:
        iv = int.from_bytes(self._derive(b"iv", 12), "big")
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (iv ^ self._sent).to_bytes(12, "big")
        self._sent += 1
        return head + AESGCM(self._derive(b"key", 32)).encrypt(nonce, inner, head)

    def _derive(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self._secret)
