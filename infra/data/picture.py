"""Pictures for geo-images: small portable graymaps, the same bytes for the same dice.

PGM and not PNG: a compressor's output may change with its version, and these bytes are compared by hash.
"""

from infra.data.dice import Dice

SIDE = 64
MIME = "image/x-portable-graymap"


def picture(number: int, dice: Dice) -> bytes:
    """A slope with terraces: 64 × 64 grey. The number is in it: no two pictures are equal."""
    x_slope, y_slope, twist = dice.between(1, 9), dice.between(1, 9), dice.between(1, 200)
    start = dice.roll(256)
    grey = bytes(
        (start + x * x_slope + y * y_slope + (x * y * twist >> 6)) & 0xFF
        for y in range(SIDE)
        for x in range(SIDE)
    )
    return b"P5\n# sheet %d\n%d %d\n255\n" % (number, SIDE, SIDE) + grey
