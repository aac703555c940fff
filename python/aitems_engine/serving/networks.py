"""Parts of the engine as models of their own, numbers in and numbers out, for whoever does the rest elsewhere.

`Network` is what is a graph and nothing else: on a GPU the server runs the graph itself, and the class only says what
its configuration and its plan have to know.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.errors import AitemsError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking.ranker import MODEL
from aitems_engine.recommendation.asked import HISTORY_LIMIT
from aitems_engine.recommendation.loading import RANKER, load_encoder, load_recommender
from aitems_engine.serving.models import Call, ServedModel, Tensors

if TYPE_CHECKING:
    from aitems_engine.category.classifier import CategoryClassifier
    from aitems_engine.ranking.ranker import Ranker
    from aitems_engine.retrieval.nearest import VectorRetriever
    from aitems_engine.runtime import OnnxScorer, ScorerInputs

# shapes of a tensor that a plan is made for: the least, the usual and the most
Shapes: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]"
EXAMPLES = 16
POPULAR = 32  # items that samples of a ranker are about
# n-grams of a title that a plan takes
GRAMS_USUAL, GRAMS_MAX = 256, 1024
ROWS_USUAL = 256


class PartModel(ServedModel):
    """A part of the engine: it makes its own requests to record."""

    @abstractmethod
    def examples(self) -> list[Tensors]:
        """Return requests that the bundle can answer, made of what it holds."""

    def answer(self, calls: Sequence[Call]) -> list[Tensors | AitemsError]:
        """Run the rows of all calls at once; where one cannot be answered, each alone."""
        try:
            rows = self.run([call.inputs for call in calls])
        except InvalidInputError as error:
            return [error] if len(calls) == 1 else [self.answer([call])[0] for call in calls]
        ends = np.cumsum([len(next(iter(call.inputs.values()))) for call in calls])
        (name,) = self.outputs
        return [{name: own} for own in np.split(rows, ends[:-1])]

    @abstractmethod
    def run(self, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
        """Return the rows of the one output for the rows of all inputs.

        Raises
        ------
        InvalidInputError
            A value that cannot be answered.
        """


class Network(PartModel):
    """A graph of the bundle.

    Attributes
    ----------
    part : str
        Name of the graph in the bundle.
    max_rows : int
        Of a batch: `max_batch_size` in model_repository/.
    graph_inputs : sequence of str
        Those that this graph has.
    columns : int
        Of the logits.
    bundle : Path
    """

    part: ClassVar[str]
    max_rows: ClassVar[int]
    outputs = frozenset({"logits"})
    graph_inputs: Sequence[str]
    columns: int
    bundle: Path

    def graph(self) -> bytes:
        """Return the graph as ONNX."""
        return (self.bundle / self.part).read_bytes()

    def feeds(self, tensors: Tensors) -> Tensors:
        """Return the server's tensors, which have rows and columns, as the graph takes them."""
        return {
            name: tensors[name].reshape(-1, *tensors[name].shape[1:] if usual else ())
            for name, (_, usual, _) in self.shapes().items()
        }

    @abstractmethod
    def shapes(self) -> dict[str, Shapes]:
        """Return the shapes of one row of each of the graph's inputs."""

    def profile(self) -> dict[str, Shapes]:
        """Return the shapes of batches."""
        return {
            name: ((1, *least), (min(ROWS_USUAL, self.max_rows), *usual), (self.max_rows, *most))
            for name, (least, usual, most) in self.shapes().items()
        }

    @abstractmethod
    def samples(self, rows: int) -> Tensors:
        """Return about so many rows of what it is asked in earnest, to calibrate and to compare with."""


class CategoryNetwork(Network):
    """Token and n-gram ids in, logits out: the same as `OnnxScorer.logits`; labels name the columns."""

    name = "category_classifier"
    part = "model.onnx"
    max_rows = 256
    _classifier: CategoryClassifier
    _scorer: OnnxScorer

    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open the classifier's graph."""
        from aitems_engine.category.loading import load_classifier
        from aitems_engine.runtime import OnnxScorer

        self._classifier = Bundle.open_as(bundle, partial(load_classifier, execution="onnx", mode="exact"))
        scorer = self._classifier.scorer
        assert isinstance(scorer, OnnxScorer)
        self._scorer, self.columns, self.bundle = scorer, scorer.classes, bundle
        self.graph_inputs = list(self._feeds([""], [""]))

    def labels(self) -> list[str]:
        """Return the ids of the leaves."""
        leaves: list[str] = self._classifier.labels.leaf_ids.tolist()
        return leaves

    def shapes(self) -> dict[str, Shapes]:
        """Return shapes up to the longest title and mall category that the tokeniser keeps."""
        settings = self._classifier.settings
        title, mall = settings.max_title_length, max(1, settings.max_mall_length)
        every: dict[str, Shapes] = {
            "title_ids": ((1,), (title,), (title,)),
            "title_lengths": ((), (), ()),
            "gram_ids": ((1,), (GRAMS_USUAL,), (GRAMS_MAX,)),
            "mall_ids": ((1,), (mall,), (mall,)),
            "mall_lengths": ((), (), ()),
        }
        return {name: every[name] for name in self.graph_inputs}

    def examples(self) -> list[Tensors]:
        """Return one row, and the names of some leaves with their categories."""
        return [self.samples(1), self.samples(EXAMPLES)]

    def samples(self, rows: int) -> Tensors:
        """Return the names of leaves as titles, and the categories above them as those of a mall."""
        paths = self._classifier.labels.paths[:rows]
        parts = [path.rpartition(" > ") for path in paths]
        return self._feeds([name for _, _, name in parts], [above for above, _, _ in parts])

    def _feeds(self, titles: Sequence[str], malls: Sequence[str]) -> Tensors:
        feeds = self._scorer.feeds(self._classifier.prepare(titles, malls))
        # the server's tensors have rows and columns
        return {name: array.reshape(len(titles), -1) for name, array in feeds.items()}

    def run(self, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
        """Run the graph, in one thread."""
        return self._scorer.logits(self._scorer_inputs(inputs))

    def _scorer_inputs(self, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> ScorerInputs:
        from aitems_engine.runtime import ScorerInputs

        columns = {name: _together([one[name] for one in inputs], fill) for name, fill in _FILL.items()}
        columns = {name: column for name, column in columns.items() if name in self.graph_inputs}
        grams = columns.pop("gram_ids", None)
        given: dict[str, Any] = {n: c.ravel() if n.endswith("lengths") else c for n, c in columns.items()}
        if grams is not None:
            used = grams >= 0
            given["gram_ids"] = grams[used]
            given["gram_splits"] = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
        return ScorerInputs(**given)


class Ranking(Network):
    """codes, dense -> logits: the network of the ranker alone, the same as `Ranker.logits`."""

    name = "ranker"
    part = RANKER + MODEL
    max_rows = 1024
    ranker: Ranker

    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open the ranker of a bundle."""
        ranker = Bundle.open_as(bundle, load_recommender).ranker
        if ranker is None:
            raise InvalidInputError(f"bundle '{bundle}' has no ranker")
        self.ranker, self.graph_inputs, self.columns, self.bundle = ranker, ranker.inputs, ranker.outputs, bundle

    def widths(self) -> dict[str, int]:
        """Return the numbers of columns."""
        fields = self.ranker.fields
        return {"codes": len(fields.cardinalities), "dense": fields.dense, "logits": self.ranker.outputs}

    def shapes(self) -> dict[str, Shapes]:
        """Return the one shape of a row."""
        return {name: ((self.widths()[name],),) * 3 for name in self.graph_inputs}

    def examples(self) -> list[Tensors]:
        """Return two rows: nothing known, and the last of everything."""
        last = np.array(self.ranker.fields.cardinalities, np.int32) - 1
        dense = np.zeros((2, self.ranker.fields.dense), np.float32)
        return [{"codes": np.stack([0 * last, last]), "dense": dense}]

    def samples(self, rows: int) -> Tensors:
        """Return the features of popular items for users that the bundle knows."""
        from aitems_engine.ranking import FeatureQuery

        recommender = Bundle.open_as(self.bundle, load_recommender)
        assert recommender.features is not None
        popular = recommender.popular[:POPULAR]
        users = max(1, rows // max(1, len(popular)))
        known = recommender.histories
        assert known is not None
        histories = known.of_users(known.user_ids[:users] or [""])
        count = len(histories)
        placement = {"placement": [next(iter(recommender.placements))] * count}
        splits = np.arange(count + 1, dtype=np.int64) * len(popular)
        now = np.full(count, histories.times.max(initial=-1), np.int64)
        query = FeatureQuery.of(histories, np.tile(popular, count), splits, now, placement)
        batch = recommender.features.gather(query)
        return {"codes": batch.codes, "dense": batch.dense}

    def run(self, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
        """Run the network."""
        from aitems_engine.ranking.batches import FeatureBatch

        codes, dense = (np.concatenate([one[name] for one in inputs]) for name in ("codes", "dense"))
        beyond = np.argwhere((codes < 0) | (codes >= np.array(self.ranker.fields.cardinalities, np.int32)))
        if len(beyond):
            row, column = beyond[0].tolist()
            raise InvalidInputError(
                f"codes[{row}, {column}] must be from 0 to {self.ranker.fields.cardinalities[column] - 1}, "
                f"got {codes[row, column]}"
            )
        if not np.isfinite(dense).all():
            raise InvalidInputError("dense must hold finite numbers only")
        return self.ranker.logits(FeatureBatch(codes, dense))


class UserEncoder(PartModel):
    """HISTORY -> VECTOR: the vector of a history, the same as `VectorRetriever.queries`.

    A row of HISTORY holds item ids, oldest first; "" fills up shorter ones. Items that the retriever does not know are
    left out, and of a long history the newest events count, as in `Engine.recommend`.
    """

    name = "user_encoder"
    outputs = frozenset({"VECTOR"})
    retriever: VectorRetriever

    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open the first retriever with vectors."""
        self.retriever = Bundle.open_as(bundle, load_encoder)
        self._places = {item.encode(): place for place, item in enumerate(self.retriever.item_ids)}

    def examples(self) -> list[Tensors]:
        """Return a short history, and one of many items beside an empty one."""
        items = [item.encode() for item in self.retriever.item_ids[:EXAMPLES]]
        rows = [items, [b""] * len(items)]
        return [{"HISTORY": np.array([items[:1]], object)}, {"HISTORY": np.array(rows, object)}]

    def run(self, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
        """Encode all histories together."""
        places = self._places
        events = ([item for item in row if item][-HISTORY_LIMIT:] for one in inputs for row in one["HISTORY"].tolist())
        rows = [[places[item] for item in row if item in places] for row in events]
        splits = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        items = np.array([place for row in rows for place in row], np.int32)
        unknown = np.full(len(items), -1, np.int64)
        ids = list(self.retriever.item_ids)
        return self.retriever.queries(Interactions([""] * len(rows), ids, splits, items, unknown))


_FILL = {"title_ids": 0, "title_lengths": 0, "gram_ids": -1, "mall_ids": 0, "mall_lengths": 0}


def _together(arrays: Sequence[npt.NDArray[Any]], fill: int) -> npt.NDArray[Any]:
    """Return the rows of all arrays, as wide as the widest."""
    wide = max(array.reshape(len(array), -1).shape[1] for array in arrays)
    rows = [array.reshape(len(array), -1) for array in arrays]
    return np.concatenate(
        [np.pad(r, ((0, 0), (0, wide - r.shape[1])), constant_values=fill) if r.shape[1] < wide else r for r in rows]
    )
