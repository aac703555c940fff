"""A shop with known truth: products whose real categories are kept apart from what labels and malls say."""

from __future__ import annotations

from aitems_engine.simulator.shop import SimulatedShop, simulate_shop

__all__ = ["SimulatedShop", "simulate_shop"]
