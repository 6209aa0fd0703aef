"""What can go wrong with a backup, beside the errors of the kernel.

ZaibeiError
├── Usage
│   ├── WrongKey        no key object opens with this passphrase
│   ├── NotARepository  there is no `config` here, and nothing that was under one
│   ├── NotEmpty        a restore would mix with what is there
│   ├── Taken           what was to be made is there already
│   └── WriteOnly       a host's key, for what only a recipient's can do
├── Missing
│   └── NewerFormat     written by a later zaibei
├── Damage
│   ├── Retired         signed by keys or a host whose time was over
│   ├── UnknownHost     signed by a host that has no certificate
│   ├── RolledBack      the vault shows fewer snapshots than it once had
│   └── WalGap          the archive lacks a segment that recovery needs
└── Incomplete          some of what was asked for was not backed up; the rest was
"""

from zaibei.kernel.errors import Damage, Missing, Usage, ZaibeiError


class WrongKey(Usage):
    pass


class NotARepository(Usage):
    pass


class NotEmpty(Usage):
    pass


class Taken(Usage):
    pass


class WriteOnly(Usage):
    pass


class NewerFormat(Missing):
    pass


class Retired(Damage):
    pass


class UnknownHost(Damage):
    pass


class RolledBack(Damage):
    pass


class WalGap(Damage):
    pass


class Incomplete(ZaibeiError):
    """Ends with 1: a person or a scheduler must look."""
