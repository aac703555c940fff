"""Products, the category tree and splits: what a shop's files say, checked when they are read."""

from __future__ import annotations

from aitems_engine.catalog.items import ItemTable
from aitems_engine.catalog.products import Products, iter_products, read_products, write_products
from aitems_engine.catalog.taxonomy import Taxonomy

__all__ = ["ItemTable", "Products", "Taxonomy", "iter_products", "read_products", "write_products"]
