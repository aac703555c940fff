"""Training loops: the only part of the package that imports torch. Results are written as bundles and tensors."""

from __future__ import annotations

import os

# Read by OpenMP when torch is loaded: idle threads sleep instead of spinning; on a busy machine the
# spinning costs several times the work itself.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
