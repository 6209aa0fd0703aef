"""SM2 (GB/T 32918) in Python: public point, key agreement, public-key encryption.

Every scalar takes the same 256 steps of two complete additions (Renes, Costello, Batina 2016), so
the control flow does not depend on the key. The time of Python's integers and the caches still do,
a little: an attacker who can time this process on its own machine may learn a key; one who only
sees the vault cannot. Do not use it in a server that answers strangers.
"""

import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes

from zaibei.kernel.errors import Damage

P: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
N: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
_G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
_Point = tuple[int, int]


def public(private: bytes) -> bytes:
    """Of a scalar of 32 bytes: x ‖ y, 64 bytes."""
    return _pack(_times(_scalar(private), _G))


def shared(private: bytes, point: bytes) -> bytes:
    """x ‖ y of the point that both sides reach. Raises Damage for a point that is not on the curve."""
    return _pack(_times(_scalar(private), _unpack(point)))


def lifted(x: bytes, odd: int) -> bytes:
    """x ‖ y of the point with this x and the parity of y. Raises Damage when there is none."""
    at = int.from_bytes(x)
    y = pow(at**3 - 3 * at + _B, (P + 1) // 4, P)
    return _pack(_unpack(x + (y if y & 1 == odd else P - y).to_bytes(32)))


def encrypt(point: bytes, data: bytes, *, k: bytes | None = None) -> bytes:
    """GB/T 32918.4: C1 (x ‖ y) ‖ C3 ‖ C2, without the standard's leading 04. `k` only for its example."""
    once = k or (1 + secrets.randbelow(N - 1)).to_bytes(32)
    both = shared(once, point)
    check = _sm3(both[:32] + data + both[32:])
    return public(once) + check + _masked(both, data)


def decrypt(private: bytes, sealed: bytes) -> bytes:
    if len(sealed) <= 96:
        raise Damage("too short for SM2")
    both = shared(private, sealed[:64])
    data = _masked(both, sealed[96:])
    if not secrets.compare_digest(_sm3(both[:32] + data + both[32:]), sealed[64:96]):
        raise Damage("SM2: not encrypted to this key, or not what was encrypted")
    return data


def _masked(both: bytes, data: bytes) -> bytes:
    blocks = range(1, -(-len(data) // 32) + 1)
    mask = b"".join(_sm3(both + n.to_bytes(4)) for n in blocks)
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))


def _times(scalar: int, point: _Point) -> _Point:
    low, high = (0, 1, 0), (*point, 1)
    for at in reversed(range(256)):
        if scalar >> at & 1:
            low, high = _sum(low, high), _sum(high, high)
        else:
            low, high = _sum(low, low), _sum(low, high)
    x, y, z = low
    over = pow(z, -1, P)
    return x * over % P, y * over % P


def _sum(one: tuple[int, int, int], two: tuple[int, int, int]) -> tuple[int, int, int]:
    """Complete: right for equal points and for the point at infinity too."""
    (x1, y1, z1), (x2, y2, z2) = one, two
    xx, yy, zz = x1 * x2 % P, y1 * y2 % P, z1 * z2 % P
    xy = (x1 + y1) * (x2 + y2) - xx - yy
    yz = (y1 + z1) * (y2 + z2) - yy - zz
    xz = (x1 + z1) * (x2 + z2) - xx - zz
    m, n, s = 3 * (xz - _B * zz), 3 * (_B * xz - 3 * zz - xx), 3 * (xx - zz)
    u, v = (yy + m) % P, (yy - m) % P
    return (xy * u - yz * n) % P, (u * v + s * n) % P, (yz * v + xy * s) % P


def _scalar(private: bytes) -> int:
    value = int.from_bytes(private)
    if len(private) != 32 or not 0 < value < N:
        raise Damage("not a private key of SM2")
    return value


def _unpack(point: bytes) -> _Point:
    x, y = int.from_bytes(point[:32]), int.from_bytes(point[32:])
    if len(point) != 64 or max(x, y) >= P or (y * y - x**3 + 3 * x - _B) % P:
        raise Damage("not a point of SM2's curve")
    return x, y


def _pack(point: _Point) -> bytes:
    return point[0].to_bytes(32) + point[1].to_bytes(32)


def _sm3(data: bytes) -> bytes:
    one = hashes.Hash(hashes.SM3())
    one.update(data)
    return one.finalize()
