"""What a client says of an upload's checksum."""

from __future__ import annotations

import hashlib

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.messages import TpcAbort
from zeolith.protocol.streamrequests import AttachBlob

DATA = b"what is in the blob"
GOOD = hashlib.sha256(DATA).digest()
TERMS = Terms(checksums=("sha256",))


def upload(client: RawClient, checksum: bytes | None, number: int = FIRST_UPLOAD) -> None:
    """Send a blob in a transaction."""
    client.begin()
    RawStreams(client).upload(number, DATA)
    client.send(AttachBlob(number, oid_of(1), bytes(8), b"record", 1, len(DATA), checksum))


def test_the_right_one(files: FileStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(files).address, coding=Coding.OWN, terms=TERMS)
    upload(client, GOOD)
    client.vote()
    tid = client.finish()
    with open(files.loadBlob(oid_of(1), tid), "rb") as file:
        assert file.read() == DATA


def test_another_one_fails_the_vote_and_the_connection_goes_on(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    client = raw(serve(files).address, coding=Coding.OWN, terms=TERMS)
    upload(client, bytes(32))
    with pytest.raises(RemoteFault) as caught:
        client.vote()
    assert caught.value.name == "zeolith.errors.BlobDamaged"
    assert caught.value.details["oid"] == oid_of(1)
    client.send(TpcAbort(1))
    upload(client, GOOD, FIRST_UPLOAD + 1)
    client.vote()
    client.finish()


@pytest.mark.parametrize(("terms", "checksum"), [(TERMS, None), (NO_TERMS, GOOD)])
def test_none_where_one_was_agreed_upon_and_the_reverse(
    files: FileStorage, serve: Serve, raw: Connect, terms: Terms, checksum: bytes | None
) -> None:
    client = raw(serve(files).address, coding=Coding.OWN, terms=terms)
    upload(client, checksum)
    client.wait_closed()
    assert len(files) == 0
