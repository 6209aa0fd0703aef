"""zaibei 灾备: disaster tolerance that is measured, not promised.

In the repository each folder is a package of its own (`backup`, `infra`, …). The wheel holds one
name: the six lie under `zaibei/_suite/`, which is put on `sys.path` here when it exists, so that
no generic name such as `backup` or `monitors` is left in site-packages (docs/adr/0001).
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

_suite = Path(__file__).parent / "_suite"
if _suite.is_dir() and str(_suite) not in sys.path:
    sys.path.insert(0, str(_suite))
