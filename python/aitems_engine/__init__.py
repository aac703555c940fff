"""Inference engine for shopping platforms: category matching, recommendation and streams on a native core."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aitems_engine.engine import Engine as Engine
    from aitems_engine.recommendation import Request as Request

__version__ = version("aitems-engine")
__all__ = ["Engine", "Request", "__version__"]


def __getattr__(name: str) -> Any:
    # imported when it is used: `import aitems_engine` alone costs no NumPy
    if name == "Engine":
        from aitems_engine.engine import Engine

        return Engine
    if name == "Request":
        from aitems_engine.recommendation import Request

        return Request
    raise AttributeError(f"module 'aitems_engine' has no attribute '{name}'")
