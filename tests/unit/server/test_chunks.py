import pytest
from gunicorn.http.errors import ParseException
from hypothesis import given
from hypothesis import strategies as st

from svd_service.server.chunks import ChunkDecoder


def decoded(pieces):
    decoder = ChunkDecoder()
    payload = b""
    for piece in pieces:
        payload += decoder.feed(piece)
        if decoder.done:
            break
    return payload, decoder


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=10), st.integers(1, 7))
def test_the_payload_is_decoded_however_the_bytes_are_split(chunks, following, step):
    framed = b"".join(b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    framed += b"0\r\nTrailer: x\r\n\r\n" + following
    payload, decoder = decoded(framed[at : at + step] for at in range(0, len(framed), step))
    assert payload == b"".join(chunks)
    assert decoder.done
    assert following.startswith(decoder.rest)


def test_many_tiny_chunks_are_rejected_and_many_chunks_of_a_usual_size_are_not():
    tiny, usual = b"1\r\nx\r\n", b"64\r\n" + b"x" * 100 + b"\r\n"
    assert ChunkDecoder().feed(usual * 20_000) == b"x" * 2_000_000
    assert ChunkDecoder().feed(tiny * 4_000) == b"x" * 4_000
    with pytest.raises(ParseException):
        ChunkDecoder().feed(tiny * 5_000)


@pytest.mark.parametrize(
    "framed",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\n",
        b"5\nhello\n",
        b"5\r\nhelloXX",
        b"5;a\rb\r\nhello\r\n",
        b"1" * 40 + b"\r\n",
        b"5;" + b"x" * 5_000,
        b"0\r\n" + b"a: b\r\n" * 10_000,
    ],
)
def test_invalid_framing_is_an_error(framed):
    with pytest.raises(ParseException):
        decoded([framed])


@pytest.mark.parametrize("framed", [b"", b"5", b"5\r\nhell", b"5\r\nhello", b"5\r\nhello\r\n0\r\n"])
def test_a_body_without_its_end_is_incomplete(framed):
    assert not decoded([framed])[1].done
