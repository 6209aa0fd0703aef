"""The heap keeps its pages: buffers of a size come from where the last ones went."""

import resource
import subprocess
import sys

# Eight buffers of 1 MiB at a time, as between a source and its packs. What glibc does by itself gives
# them back to the kernel each time.
_ROUNDS, _EACH = 64, 8
_WORK = f"""
import resource, sys
from zaibei.kernel import heap
if sys.argv[1] == "kept":
    heap.keep()
for _ in range({_ROUNDS}):
    held = [b"x" * (1 << 20) for _ in range({_EACH})]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WORK, how], capture_output=True, check=True, text=True
    )
    return int(done.stdout)


def test_a_heap_that_is_kept_does_not_fetch_each_buffer_anew() -> None:
    touched = _ROUNDS * _EACH * (1 << 20) // resource.getpagesize()
    kept, by_itself = faults("kept"), faults("by itself")
    assert by_itself > touched / 2, "glibc gives back by itself; else this is about nothing"
    assert kept < by_itself / 4
