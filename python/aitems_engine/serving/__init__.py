"""The engine behind Triton: writes the model repository, starts and guards the server, and asks it.

repository.py writes what Triton loads, models.py is what runs inside it, server.py starts it and swaps bundles,
client.py asks it with the engine's own types. Needs the extra `triton`; models.py alone does not.
"""

from __future__ import annotations

from aitems_engine.serving.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
