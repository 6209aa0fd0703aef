"""Chunks are encoded together as they would be one by one, and a compressor that garbles stops the run."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.format import blob
from backup.format.blob import Chunk, Encoding, decode, encode, encode_all
from zaibei.kernel.errors import Damage

texts = st.binary(min_size=1, max_size=64).map(lambda b: b * 40)
chunks = st.lists(st.one_of(texts, st.binary(min_size=1, max_size=2000)), max_size=12)


@given(chunks)
def test_together_is_what_one_by_one_gives(plain: list[bytes]) -> None:
    together = [Chunk(p) for p in plain]
    encode_all(together)
    assert [c.encoded() for c in together] == [encode(p) for p in plain]
    for one in together:
        encoding, stored = one.encoded()
        assert decode(encoding, stored, raw_bytes=len(one.data)) == one.data


def test_what_does_not_compress_stays_as_it_is_among_what_does() -> None:
    noise, text = random.Random(1).randbytes(5000), b"text " * 1000
    both = [Chunk(noise), Chunk(text)]
    encode_all(both)
    assert both[0].encoded() == (Encoding.RAW, noise)
    assert both[1].encoded()[0] is Encoding.ZSTD


def test_each_is_encoded_once_however_many_vaults_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Chunk(b"text " * 1000), Chunk(b"more " * 1000)]
    encode_all(both)
    first = [c.encoded()[1] for c in both]
    monkeypatch.setattr(blob, "_compressor", lambda: None)
    encode_all(both)
    assert all(c.encoded()[1] is f for c, f in zip(both, first, strict=True))


class _Garbles:
    """A decompressor on a machine with bad memory."""

    def multi_decompress_to_buffer(self, frames: object) -> object:
        return blob._compressor().multi_compress_to_buffer([b"other" * 1000, b"bytes" * 1000])


def test_chunks_that_do_not_come_back_the_same_are_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob, "_decompressor", _Garbles)
    with pytest.raises(Damage, match="does not round-trip"):
        encode_all([Chunk(b"text " * 1000), Chunk(b"more " * 1000)])
