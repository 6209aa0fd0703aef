"""Give what a restore made its owner, mode, attributes and times, and note what can give rights on this machine.

A listing is the word of the host that wrote it. Setuid and setgid bits, file capabilities and device nodes are part of
a system that comes back; from a host that an attacker held they are a way to root. They are counted and named, and left
out where that is asked.
"""

# Names are bytes here, and a descriptor is no path.
# ruff: noqa: PTH101

import os
import stat
import threading
from typing import Final

from backup.format.tree import Node, Type
from zaibei.kernel.printable import quoted

TOLD_MAX: Final = 1000  # lines of each kind; the counts are exact
_SECURITY: Final = b"security."  # what the kernel grants by: capabilities, labels
_CAPABILITY: Final = b"security.capability"
_BITS: Final = ((stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid"))


class Dresser:
    """Thread-safe. `special` false: nothing that can give rights is set."""

    def __init__(self, *, special: bool = True) -> None:
        self._special = special
        self._root = os.geteuid() == 0
        self._me = (os.geteuid(), os.getegid())
        self._lock = threading.Lock()
        self.unset: list[str] = []
        self.unset_count = 0
        self.privileged: list[str] = []
        self.privileged_count = 0

    def dress(self, of: int | str, node: Node) -> None:
        """In an order in which none undoes another. `of`: a descriptor, or the name under /proc of one that only
        points."""
        # Only root may give files away; for any other account what is restored is its own.
        if self._root and (node.uid, node.gid) != self._me:
            os.chown(of, node.uid, node.gid)
        if node.type is not Type.LINK:
            os.chmod(of, self._mode(node))
        for name, value in node.xattrs:
            if name == _CAPABILITY:
                self._tell(node, "file capabilities")
            if name.startswith(_SECURITY) and not self._special:
                continue
            try:
                os.setxattr(of, name, value)
            except OSError as refused:
                self.not_set(node.path, f"{quoted(name)}: {refused.strerror}")
        os.utime(of, ns=(node.mtime_ns, node.mtime_ns))

    def _mode(self, node: Node) -> int:
        # On a directory they say whose the files in it will be, and give nothing.
        if node.type is Type.DIRECTORY or not (bits := [b for b in _BITS if node.mode & b[0]]):
            return node.mode
        self._tell(node, f"{' '.join(what for _, what in bits)}, owner {node.uid}:{node.gid}")
        return node.mode if self._special else node.mode & ~(stat.S_ISUID | stat.S_ISGID)

    def device(self, node: Node) -> bool:
        """Whether it is to be made."""
        self._tell(node, f"{node.type} device {node.rdev[0]}:{node.rdev[1]}")
        return self._special

    def not_set(self, path: bytes, why: str) -> None:
        with self._lock:
            self.unset_count += 1
            if len(self.unset) < TOLD_MAX:
                self.unset.append(f"{quoted(path)}: {why}")

    def _tell(self, node: Node, what: str) -> None:
        with self._lock:
            self.privileged_count += 1
            if len(self.privileged) < TOLD_MAX:
                self.privileged.append(f"{quoted(node.path)}: {what}")
