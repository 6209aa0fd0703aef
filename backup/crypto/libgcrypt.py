"""SM3 and SM4-GCM by libgcrypt through ctypes: it uses vector registers where OpenSSL does not.

Measured in docs/design/repository.md. ctypes releases the GIL for the length of each call. `load`
returns None when the library is missing, too old, or does not reproduce the published vectors (a
machine in FIPS mode refuses SM4); callers then use OpenSSL, which gives the same bytes.
"""

import ctypes
import functools
from typing import Final

from zaibei.kernel.errors import Damage, Missing

_LIBRARY = "libgcrypt.so.20"
_VERSION_MIN = b"1.9.0"  # the first with SM4
_SM4, _GCM, _SM3, _HMAC = 318, 9, 326, 2
_DISABLE_SECMEM, _INITIALIZATION_FINISHED = 37, 38
_TAG_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_SM3_ABC = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"  # GB/T 32905, A.1
_SM4_GCM_SEALED = (  # RFC 8998, A.1
    "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
    "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
    "83de3541e4c2b58177e065a9bf7b62ec"
)


class _Buffer(ctypes.Structure):
    """gcry_buffer_t."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("off", ctypes.c_size_t),
        ("len", ctypes.c_size_t),
        ("data", ctypes.c_char_p),
    )


class Gcrypt:
    """Thread-safe: no state but the library's own tables."""

    name = "libgcrypt"

    def __init__(self) -> None:
        try:
            self._lib = lib = ctypes.CDLL(_LIBRARY)
        except OSError as absent:
            raise Missing(f"no {_LIBRARY}", hint="apt-get install libgcrypt20") from absent
        handle, size, data = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
        for name, *arguments in (
            ("gcry_cipher_open", ctypes.POINTER(handle), ctypes.c_int, ctypes.c_int, ctypes.c_uint),
            ("gcry_cipher_setkey", handle, data, size),
            ("gcry_cipher_setiv", handle, data, size),
            ("gcry_cipher_authenticate", handle, data, size),
            ("gcry_cipher_encrypt", handle, data, size, data, size),
            ("gcry_cipher_decrypt", handle, data, size, data, size),
            ("gcry_cipher_gettag", handle, data, size),
            ("gcry_cipher_checktag", handle, data, size),
            ("gcry_cipher_close", handle),
            ("gcry_md_hash_buffer", ctypes.c_int, data, data, size),
            ("gcry_md_hash_buffers", ctypes.c_int, ctypes.c_uint, data, data, ctypes.c_int),
        ):
            function = getattr(lib, name)
            function.argtypes, function.restype = arguments, ctypes.c_uint
        lib.gcry_check_version.argtypes = [ctypes.c_char_p]
        lib.gcry_check_version.restype = ctypes.c_char_p
        # The first call sets the library up; harmless when another library in this process already did.
        if lib.gcry_check_version(_VERSION_MIN) is None:
            raise Missing(f"{_LIBRARY} is older than {_VERSION_MIN.decode()}")
        lib.gcry_control(ctypes.c_int(_DISABLE_SECMEM), ctypes.c_int(0))
        lib.gcry_control(ctypes.c_int(_INITIALIZATION_FINISHED), ctypes.c_int(0))

    def sm3(self, data: bytes) -> bytes:
        out = ctypes.create_string_buffer(_DIGEST_BYTES)
        self._lib.gcry_md_hash_buffer(_SM3, out, data, len(data))
        return out.raw

    def hmac_sm3(self, key: bytes, *parts: bytes) -> bytes:
        out = ctypes.create_string_buffer(_DIGEST_BYTES)
        pieces = (_Buffer * (1 + len(parts)))(
            *(_Buffer(len(p), 0, len(p), p) for p in (key, *parts))
        )
        _must(self._lib.gcry_md_hash_buffers(_SM3, _HMAC, out, pieces, len(pieces)), "HMAC-SM3")
        return out.raw

    def sm4_gcm(self, key: bytes) -> "Sm4Gcm":
        return Sm4Gcm(self._lib, key)


class Sm4Gcm:
    """One key. A handle lives for one call: nothing is shared between threads, and closing wipes it."""

    __slots__ = ("_key", "_lib")

    def __init__(self, lib: ctypes.CDLL, key: bytes) -> None:
        self._lib, self._key = lib, key

    def seal(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        out = ctypes.create_string_buffer(len(data) + _TAG_BYTES)
        self._seal(nonce, data, aad, ctypes.addressof(out))
        return out.raw

    def seal_into(self, nonce: bytes, data: bytes, aad: bytes, out: memoryview) -> None:
        assert len(out) == len(data) + _TAG_BYTES, "room for the bytes and their tag"
        target = (ctypes.c_char * len(out)).from_buffer(out)
        self._seal(nonce, data, aad, ctypes.addressof(target))

    def open(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        length = len(data) - _TAG_BYTES
        if length < 0:
            raise Damage("sealed bytes are shorter than a tag")
        lib, handle = self._lib, self._begin(nonce, aad)
        try:
            out = ctypes.create_string_buffer(length)
            _must(lib.gcry_cipher_decrypt(handle, out, length, data, length), "SM4-GCM")
            # The plaintext was made before the tag is known; it leaves this function only after.
            if lib.gcry_cipher_checktag(handle, data[length:], _TAG_BYTES):
                raise Damage("sealed bytes are not what was sealed")
            return out.raw
        finally:
            lib.gcry_cipher_close(handle)

    def _seal(self, nonce: bytes, data: bytes, aad: bytes, at: int) -> None:
        lib, handle = self._lib, self._begin(nonce, aad)
        try:
            _must(lib.gcry_cipher_encrypt(handle, at, len(data), data, len(data)), "SM4-GCM")
            _must(lib.gcry_cipher_gettag(handle, at + len(data), _TAG_BYTES), "SM4-GCM")
        finally:
            lib.gcry_cipher_close(handle)

    def _begin(self, nonce: bytes, aad: bytes) -> ctypes.c_void_p:
        lib, handle = self._lib, ctypes.c_void_p()
        _must(lib.gcry_cipher_open(ctypes.byref(handle), _SM4, _GCM, 0), "SM4-GCM")
        try:
            _must(lib.gcry_cipher_setkey(handle, self._key, len(self._key)), "SM4-GCM")
            _must(lib.gcry_cipher_setiv(handle, nonce, len(nonce)), "SM4-GCM")
            _must(lib.gcry_cipher_authenticate(handle, aad, len(aad)), "SM4-GCM")
        except BaseException:
            lib.gcry_cipher_close(handle)
            raise
        return handle


@functools.cache
def load() -> Gcrypt | None:
    try:
        one = Gcrypt()
        return one if why_not_trusted(one) is None else None
    except (Missing, Damage, AttributeError):  # AttributeError: a function is not exported
        return None


def why_not_trusted(one: Gcrypt) -> str | None:
    """None when it computes what the standards print."""
    if one.sm3(b"abc").hex() != _SM3_ABC:
        return "SM3 is not GB/T 32905"
    inner = one.sm3(_xored(0x36) + b"Hi There")
    if one.hmac_sm3(b"\x0b" * 32, b"Hi ", b"There") != one.sm3(_xored(0x5C) + inner):
        return "HMAC-SM3 is not RFC 2104"
    aead = one.sm4_gcm(bytes.fromhex("0123456789abcdeffedcba9876543210"))
    nonce = bytes.fromhex("00001234567800000000abcd")
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plain = b"".join(bytes([b]) * 8 for b in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
    sealed = bytes.fromhex(_SM4_GCM_SEALED)
    if aead.seal(nonce, plain, aad) != sealed or aead.open(nonce, sealed, aad) != plain:
        return "SM4-GCM is not RFC 8998"
    return None


def _xored(pad: int) -> bytes:
    return bytes([0x0B ^ pad]) * 32 + bytes([pad]) * 32


def _must(error: int, what: str) -> None:
    if error:
        raise Missing(f"libgcrypt: {what}: error {error & 0xFFFF}")
