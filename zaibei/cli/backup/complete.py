"""What the shell offers after `zaibei backup show`: numbers of snapshots, as their names in the vault say.

Names are in the clear, so no passphrase is asked for. Whatever goes wrong offers `latest` and nothing else:
a shell must not be told errors while somebody types.
"""

from typing import Final

import typer

from zaibei.kernel.errors import ZaibeiError

_OFFERED: Final = 50  # the newest


def snapshot_numbers(ctx: typer.Context, incomplete: str) -> list[str]:
    found = ["latest", *_numbers(ctx.params.get("repo"))]
    return [one for one in found if one.startswith(incomplete)]


def _numbers(urls: list[str] | None) -> list[str]:
    try:
        from backup.format import layout, snapshot  # noqa: PLC0415
        from backup.locations import stack  # noqa: PLC0415
        from backup.locations import urls as vault_urls  # noqa: PLC0415

        store = vault_urls.open_url(urls[0]) if urls else stack.stack_stores()[0]
        numbers = sorted(snapshot.numbers(layout.ours_in(store.list(snapshot.PREFIX))))
    except (ZaibeiError, OSError, IndexError, LookupError):
        return []
    return [str(n) for n in reversed(numbers[-_OFFERED:])]
