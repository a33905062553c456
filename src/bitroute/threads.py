"""How the threads of numerical libraries wait for each other. Set before the first of them is loaded; nothing is imported here.

OpenMP's threads spin at the end of every parallel loop by default: the first to arrive burn a core until the last one is there.
On a core that other work shares, the last one is not running, and the others keep it from running.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

POLICY: Final = "OMP_WAIT_POLICY"  # OpenMP's own; libgomp, LLVM's and Intel's libraries all read it
OTHERS: Final = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # that say the same to one of them


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads of this process and of those that it starts sleep while they wait, unless the user has said how they wait."""
    if not any(name in environment for name in (POLICY, *OTHERS)):
        environment[POLICY] = "passive"
