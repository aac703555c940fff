"""The category classifier at serving time: titles and mall categories -> leaves with probabilities, or "not sure".

tokenise + character n-grams -> scorer (runtime/) -> top-k -> threshold of the top category -> where it abstains, the
deepest parent that is sure. It is built from a bundle's parts and knows neither files nor how the model was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native import category
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import InvalidInputError, ModelMismatchError
from aitems_engine.types import Classification, LabelTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from aitems_engine.runtime import ScorerInputs, TextScorer
    from aitems_engine.text import PackedText, TokenBatch, Tokenizer

    # what is taken as a batch of texts
    Texts: TypeAlias = Sequence[str | None] | Sequence[bytes | None] | PackedText


# rows whose probabilities of all leaves are held at a time: 17 MB at 4,215 leaves
HEDGE_ROWS = 1024


class CategoryClassifier:
    """Classifies batches of products; holds no state of a request, so threads may share it.

    Parameters
    ----------
    tokenizer : Tokenizer
    scorer : TextScorer
    taxonomy : Taxonomy
    settings : ClassifierSettings
    bundle_digest : str
        Stands in every result.

    Raises
    ------
    ModelMismatchError
        Sizes of model, tokeniser and settings differ, a label is not a leaf of the taxonomy, or a threshold is for
        something that is not a top category.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        scorer: TextScorer,
        taxonomy: Taxonomy,
        settings: ClassifierSettings,
        *,
        bundle_digest: str = "",
    ) -> None:
        self.tokenizer, self.scorer, self.taxonomy, self.settings = tokenizer, scorer, taxonomy, settings
        self.bundle_digest = bundle_digest
        leaves = set(taxonomy.leaf_ids)
        for label in settings.labels:
            if label not in leaves:
                raise ModelMismatchError(f"classifier.json names the label '{label}', which is no leaf of taxonomy.csv")
        model = scorer.describe()
        for ours, theirs, kind, part in (
            (len(settings.labels), model["classes"], ("labels", "outputs"), "classifier.json"),
            (settings.gram_buckets, model["gram_buckets"], ("n-gram buckets",), "classifier.json"),
            (tokenizer.vocab_size, model["vocabulary"], ("tokens",), "tokenizer.json"),
        ):
            if ours != theirs:
                raise ModelMismatchError(
                    f"{part} has {ours} {kind[0]}, but the model has {theirs} {kind[-1]}; "
                    "they come from different trainings"
                )
        label_nodes = taxonomy.positions(settings.labels)
        lineages = taxonomy.lineages(label_nodes)
        tops = [taxonomy.node_ids[line[0]] for line in lineages]
        unknown = sorted(set(settings.threshold_by_top) - set(taxonomy.top_ids))
        if unknown:
            raise ModelMismatchError(
                f"classifier.json has a threshold for '{unknown[0]}', which is no top category of taxonomy.csv"
            )
        self._thresholds = np.array(
            [settings.threshold_by_top.get(top, settings.threshold_default) for top in tops], dtype=np.float32
        )
        self._top_names = [taxonomy.path(top) for top in tops]
        inner = {taxonomy.node_ids[node] for line in lineages for node in line[:-1]}
        self._inner_paths = {node: taxonomy.path(node) for node in inner}
        self._tree = label_tree(taxonomy, label_nodes, self._thresholds)
        self._hedge, self._flat = category.Hedge(self._tree), not self._tree["above"].shape[1]
        # tokens of a title without text: 0, or those of the tokeniser's template
        self._empty_length = int(tokenizer.encode_batch([""], max_length=settings.max_title_length).lengths[0])
        self.labels = LabelTable(np.array(settings.labels, dtype=np.str_), tuple(map(taxonomy.path, settings.labels)))

    def classify(
        self,
        titles: Texts,
        mall_categories: Texts | None = None,
        *,
        top_k: int = 5,
        threads: int = 1,
    ) -> Classification:
        """Return the best categories of each product; see `Engine.classify`."""
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise InvalidInputError(f"top_k must be a whole number of at least 1, got {top_k!r}")
        top_k = min(top_k, len(self.settings.labels))
        inputs = self.prepare(titles, mall_categories, threads=threads)
        if inputs.count == 0:
            return self._no_rows(top_k)
        indices, probabilities = self.scorer.score(inputs, top_k, threads=threads)
        return self._decide(inputs, indices, probabilities, threads)

    def probabilities(
        self, titles: Texts, mall_categories: Texts | None = None, *, threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every label, float32, shape (num_rows, num_labels)."""
        return self.scorer.probabilities(self.prepare(titles, mall_categories, threads=threads), threads=threads)

    def describe(self) -> dict[str, Any]:
        """Return the sizes and settings of the classifier as plain values."""
        s = self.settings
        return {
            "labels": len(s.labels),
            "taxonomy_nodes": len(self.taxonomy),
            "taxonomy_depth": self.taxonomy.depth,
            "tokenizer": self.tokenizer.model,
            "vocabulary": self.tokenizer.vocab_size,
            "max_title_length": s.max_title_length,
            "gram_buckets": s.gram_buckets,
            "threshold_default": s.threshold_default,
            "thresholds": len(s.threshold_by_top),
            "training": dict(s.training),
        }

    def native_parts(self) -> dict[str, Any]:
        """Return what the native classifier is made of beside the weights; see `_native.category.write_classifier`."""
        s, node_ids = self.settings, self.taxonomy.node_ids
        return {
            "tokenizer": self.tokenizer.native_parts,
            "max_title_length": s.max_title_length,
            "max_mall_length": s.max_mall_length,
            "gram_min": s.gram_min,
            "gram_max": s.gram_max,
            "gram_buckets": s.gram_buckets,
            "leaf_ids": list(s.labels),
            "paths": list(self.labels.paths),
            "tops": self._top_names,
            "node_ids": list(node_ids),
            "node_paths": [self._inner_paths.get(node, "") for node in node_ids],
            "tree": self._tree,
            "bundle_digest": self.bundle_digest,
        }

    def prepare(self, titles: Texts, mall_categories: Texts | None = None, *, threads: int = 1) -> ScorerInputs:
        """Return what the scorer takes: token ids and character n-grams of a batch."""
        rows = _checked_length(titles, "titles")
        if mall_categories is not None and (found := _checked_length(mall_categories, "mall_categories")) != rows:
            raise InvalidInputError(
                f"mall_categories must have one entry a title ({rows}), got {found}; use None where unknown"
            )
        from aitems_engine._native import textcnn
        from aitems_engine.runtime import ScorerInputs

        s = self.settings
        title = self._encode(titles, "titles", s.max_title_length, threads, normalized=s.gram_buckets > 0)
        gram_ids = gram_splits = mall_ids = mall_lengths = None
        text = title.normalized
        if text is not None:
            gram_ids, gram_splits = textcnn.char_ngrams(
                text.data, text.offsets, s.gram_min, s.gram_max, s.gram_buckets, threads
            )
        if mall_categories is not None and s.max_mall_length:
            mall = self._encode(mall_categories, "mall_categories", s.max_mall_length, threads, normalized=False)
            mall_ids, mall_lengths = mall.ids, mall.lengths
        return ScorerInputs(title.ids, title.lengths, gram_ids, gram_splits, mall_ids, mall_lengths)

    def _encode(self, texts: Texts, what: str, max_length: int, threads: int, *, normalized: bool) -> TokenBatch:
        try:
            return self.tokenizer.encode_batch(texts, max_length=max_length, normalized=normalized, threads=threads)
        except InvalidInputError as error:
            raise InvalidInputError(f"{what}: {error}") from None

    def _no_rows(self, top_k: int) -> Classification:
        return Classification(
            label_indices=np.zeros((0, top_k), dtype=np.int32),
            probabilities=np.zeros((0, top_k), dtype=np.float32),
            abstained=np.zeros(0, dtype=np.bool_),
            causes=[],
            parent_ids=[],
            parent_probabilities=np.zeros(0, dtype=np.float32),
            bundle_digest=self.bundle_digest,
            labels=self.labels,
        )

    def _decide(
        self,
        inputs: ScorerInputs,
        indices: npt.NDArray[np.int32],
        probabilities: npt.NDArray[np.float32],
        threads: int,
    ) -> Classification:
        rows = len(indices)
        best, confidence = indices[:, 0], probabilities[:, 0]
        empty = inputs.title_lengths <= self._empty_length
        unsure = confidence < self._thresholds[best]
        causes: list[str | None] = [None] * rows
        parents = _Parents([None] * rows, np.full(rows, np.nan, dtype=np.float32))
        hedged = np.flatnonzero(unsure & ~empty)
        if len(hedged) and not self._flat:
            parents = self._sure_parents(inputs, hedged, best, parents, threads)
        for row in np.flatnonzero(empty).tolist():
            causes[row] = "empty title"
        for row in hedged.tolist():
            causes[row] = self._cause(int(best[row]), float(confidence[row]), parents, row)
        return Classification(
            label_indices=indices,
            probabilities=probabilities,
            abstained=unsure | empty,
            causes=causes,
            parent_ids=parents.ids,
            parent_probabilities=parents.probabilities,
            bundle_digest=self.bundle_digest,
            labels=self.labels,
        )

    def _cause(self, label: int, confidence: float, parents: _Parents, row: int) -> str:
        threshold, top = float(self._thresholds[label]), self._top_names[label]
        # as many decimals as it takes to see the difference
        difference = abs(threshold - confidence)
        decimals = 2 if difference >= 0.01 else 4 if difference >= 0.0001 else 8
        cause = f"low confidence: best {confidence:.{decimals}f} < threshold {threshold:.{decimals}f} for '{top}'"
        parent = parents.ids[row]
        if parent is not None:
            cause += f"; sure of '{self._inner_paths[parent]}' ({parents.probabilities[row]:.2f})"
        return cause

    def _sure_parents(
        self,
        inputs: ScorerInputs,
        rows: npt.NDArray[np.intp],
        best: npt.NDArray[np.int32],
        parents: _Parents,
        threads: int,
    ) -> _Parents:
        """Find, for each of the rows, the deepest category above its best leaf that reaches the leaf's threshold."""
        for start in range(0, len(rows), HEDGE_ROWS):
            self._sure_parents_of(inputs, rows[start : start + HEDGE_ROWS], best, parents, threads)
        return parents

    def _sure_parents_of(
        self,
        inputs: ScorerInputs,
        rows: npt.NDArray[np.intp],
        best: npt.NDArray[np.int32],
        parents: _Parents,
        threads: int,
    ) -> None:
        nodes, probabilities = self._hedge.above(
            self.scorer.logits(rows_of(inputs, rows), threads=threads), best[rows], threads
        )
        for row, node, probability in zip(rows.tolist(), nodes.tolist(), probabilities, strict=True):
            if node >= 0:
                parents.ids[row], parents.probabilities[row] = self.taxonomy.node_ids[node], probability


def label_tree(
    taxonomy: Taxonomy, label_nodes: npt.NDArray[np.integer[Any]], thresholds: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """Return labels as leaves of a tree, as `_native.category.Hedge` takes them.

    Parameters
    ----------
    taxonomy : Taxonomy
    label_nodes : int array, shape (num_labels,)
        The leaf that each label stands for.
    thresholds : float32 array, shape (num_labels,)
    """
    lineages = taxonomy.lineages(label_nodes)
    # nodes above each label, parent first, -1 behind the top: shape (num_labels, depth - 1)
    above = np.full((len(lineages), max(map(len, lineages)) - 1), -1, dtype=np.int32)
    for i, line in enumerate(lineages):
        above[i, : len(line) - 1] = line[-2::-1]
    # in tree order the labels below a node stand side by side
    begin, end = taxonomy.leaf_ranges()
    slots = begin[label_nodes]
    order = np.argsort(slots, kind="stable")
    return {
        "order": order.astype(np.int32),
        "node_begin": np.searchsorted(slots[order], begin).astype(np.int32),
        "node_end": np.searchsorted(slots[order], end).astype(np.int32),
        "above": above,
        "thresholds": thresholds,
    }


def rows_of(inputs: ScorerInputs, rows: npt.NDArray[np.intp]) -> ScorerInputs:
    """Return the given rows of a batch, in that order."""
    from aitems_engine.runtime import ScorerInputs

    gram_ids = gram_splits = None
    if inputs.gram_ids is not None and inputs.gram_splits is not None:
        starts, counts = inputs.gram_splits[:-1][rows], np.diff(inputs.gram_splits)[rows]
        gram_splits = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        gram_ids = inputs.gram_ids[np.arange(gram_splits[-1]) + np.repeat(starts - gram_splits[:-1], counts)]
    return ScorerInputs(
        inputs.title_ids[rows],
        inputs.title_lengths[rows],
        gram_ids,
        gram_splits,
        None if inputs.mall_ids is None else inputs.mall_ids[rows],
        None if inputs.mall_lengths is None else inputs.mall_lengths[rows],
    )


@dataclass
class _Parents:
    ids: list[str | None]
    probabilities: npt.NDArray[np.float32]


def _checked_length(texts: Any, what: str) -> int:
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidInputError(f"{what} must be a list of texts, got one {type(texts).__name__}; put it into a list")
    try:
        return len(texts)
    except TypeError:
        raise InvalidInputError(f"{what} must be a list of texts, got {type(texts).__name__}") from None
