"""`python -m aitems_engine.cli` is the `aitems` command."""

from __future__ import annotations

import sys

from aitems_engine.cli import main

sys.exit(main())
