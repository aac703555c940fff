"""An engine and labelled products -> `CategoryPredictions`, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aitems_engine.catalog import Products
from aitems_engine.engine import Engine
from aitems_engine.errors import DataError
from aitems_engine.evaluation.predictions import CategoryPredictions

# titles kept for the examples of the report
MAX_TITLE_CHARS = 200


@dataclass(frozen=True)
class CategoryEvaluation:
    """Predictions of labelled products, and their titles (cut) for examples."""

    predictions: CategoryPredictions
    titles: list[str]


def evaluate_category(engine: Engine, batches: Iterable[Products], *, threads: int = 0) -> CategoryEvaluation:
    """Classify labelled products and keep what the report needs.

    Parameters
    ----------
    engine : Engine
        An opened bundle.
    batches : iterable of Products
        `category` is the id of a leaf of the bundle's taxonomy.
    threads : int
        Of the native code; 0 = all cores.

    Raises
    ------
    DataError
        A category that is no leaf of the taxonomy; names the product and counts them in the batch.
    """
    taxonomy, labels = engine.taxonomy, engine.labels
    label_nodes = taxonomy.positions(labels)
    label_of = {label: i for i, label in enumerate(labels)}
    leaf_node = dict(zip(taxonomy.leaf_ids, taxonomy.leaf_nodes.tolist(), strict=True))
    parts: list[CategoryPredictions] = []
    titles: list[str] = []
    for products in batches:
        unknown = [i for i, c in enumerate(products.category) if c not in leaf_node]
        if unknown:
            first = unknown[0]
            raise DataError(
                f"product '{products.product_id[first]}' has the category '{products.category[first]}', which is no "
                f"leaf of the bundle's taxonomy ({len(leaf_node)} leaves, e.g. '{taxonomy.leaf_ids[0]}'); "
                f"{len(unknown)} of {len(products)} products of this batch have such a category. "
                "Map the right column with --column category=NAME"
            )
        truth = [str(c) for c in products.category]
        result = engine.classify(products.title, products.mall_category, top_k=5, threads=threads)
        probabilities = engine.probabilities(products.title, products.mall_category, threads=threads)
        parts.append(
            CategoryPredictions.from_probabilities(
                np.array([label_of.get(c, -1) for c in truth], dtype=np.int32),
                probabilities,
                label_nodes=label_nodes,
                truth_nodes=np.array([leaf_node[c] for c in truth], dtype=np.int32),
                abstained=result.abstained,
                parent_nodes=np.array([-1 if p is None else taxonomy.position(p) for p in result.parent_ids], np.int32),
            )
        )
        titles += [t[:MAX_TITLE_CHARS] for t in products.title]
    return CategoryEvaluation(CategoryPredictions.concatenate(parts), titles)
