"""The C heap keeps what it was given, for work that hands buffers of megabytes from thread to thread.

glibc gives each such buffer back to the kernel and asks for new zeroed pages a moment later: a sixth of a
backup's CPU time went there, measured. One arena, because several keep the free pieces of each apart: 15 MiB
of a backup's peak.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_KEPT_BYTES: Final = 64 << 20  # free memory at the top of the heap that is not given back
_FROM_KERNEL_BYTES: Final = (
    32 << 20
)  # the most that glibc accepts: larger buffers are mapped and unmapped


def keep() -> None:
    """Before the first thread starts. Does nothing where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, _FROM_KERNEL_BYTES)
