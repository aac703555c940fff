"""What the shop gets: `Response`, and the `Trace` that says how it came about and lets it be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.recommendation.request import Request, decode_cursor, encode_cursor
from aitems_engine.rerank import Reranked


@dataclass(frozen=True)
class Origin:
    """A retriever that found an item: its name, the item's rank there (from 1) and its score."""

    retriever: str
    rank: int
    score: float


@dataclass(frozen=True)
class RecommendedItem:
    """One place of the page.

    Attributes
    ----------
    item_id : str
    score : float
        The objective, or the merged retrieval score where ranking fell back (`Response.flags` says so).
    provenance : tuple of Origin
        Every retriever that found it, in the order of the placement; empty for popular items that fill a page, and ads.
    pctr, pcvr : float
        Predicted probabilities of a click, and of a purchase after a click; NaN without a ranker.
    is_ad : bool
        To be disclosed to the user.
    propensity : float
        Probability with which this item came to this place; 1 where nothing was drawn.
    """

    item_id: str
    score: float
    provenance: tuple[Origin, ...]
    pctr: float
    pcvr: float
    is_ad: bool
    propensity: float


@dataclass(frozen=True)
class Stage:
    """One stage of the way: what it took, what came in and out, and whether it went as planned."""

    name: str
    microseconds: float
    entered: int
    left: int
    outcome: str = "ok"


@dataclass(frozen=True, eq=False)
class Trace:
    """How a page came about; enough to make it again.

    Attributes
    ----------
    request : Request
        With the timestamp and id that were used.
    bundle_digest : str
        Of the bundle that answered; only that one can answer it again.
    stages : tuple of Stage
    reranked : Reranked, optional
        What the rules did; None in a trace that was read from JSON: a replay makes it again.
    flags : tuple of str
        What did not go as planned.
    item_ids, scores : the page
    goal_probability : float, optional
        That the user knows what they want, as the rules took it: of the request's context, or of the bundle's model.
    """

    request: Request
    bundle_digest: str
    stages: tuple[Stage, ...]
    reranked: Reranked | None
    flags: tuple[str, ...]
    item_ids: list[str]
    scores: list[float]
    goal_probability: float | None = None

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """What each rule took out, dropped, moved and cost; empty in a trace that was read from JSON."""
        return [] if self.reranked is None else [entry._asdict() for entry in self.reranked.ledger]

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON values."""
        return {
            "request": self.request.to_dict(),
            "bundle_digest": self.bundle_digest,
            "stages": [vars(stage) for stage in self.stages],
            "ledger": self.ledger,
            "flags": list(self.flags),
            "item_ids": self.item_ids,
            "scores": self.scores,
            "goal_probability": self.goal_probability,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trace:
        """Return the trace that JSON values describe.

        Raises
        ------
        InvalidInputError
            They are not a trace's.
        """
        try:
            goal = values.get("goal_probability")
            return cls(
                Request.from_dict(values["request"]),
                str(values["bundle_digest"]),
                tuple(
                    Stage(
                        str(s["name"]), float(s["microseconds"]), int(s["entered"]), int(s["left"]), str(s["outcome"])
                    )
                    for s in values["stages"]
                ),
                None,
                tuple(map(str, values["flags"])),
                list(map(str, values["item_ids"])),
                list(map(float, values["scores"])),
                None if goal is None else float(goal),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"this is not a trace of this engine: {error!r:.200}") from None


@dataclass(frozen=True, eq=False)
class Response:
    """A page of recommendations, best first.

    Attributes
    ----------
    item_ids : list of str
    scores : float64 array, shape (len(item_ids),)
    trace : Trace
    short_reason : str, optional
        Why there are fewer items than asked for.
    """

    item_ids: list[str]
    scores: npt.NDArray[np.float64]
    trace: Trace
    short_reason: str | None
    _shown: list[str] | None = field(repr=False)
    """Items of the pages before; None where there is no further page."""
    _columns: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the response as JSON values: its trace's, and what else the page holds."""
        return {
            **self.trace.to_dict(),
            "short_reason": self.short_reason,
            "next_cursor": self.next_cursor,
            "columns": {name: _json_values(column) for name, column in self._columns.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Response:
        """Return the response that JSON values describe.

        Raises
        ------
        InvalidInputError
            They are not a response's.
        """
        trace = Trace.from_dict(values)
        try:
            columns = {name: values["columns"][name] for name in ("sources", *_COLUMN_TYPES)}
            cursor = values["next_cursor"]
            rows, sources = len(trace.item_ids), len(columns["sources"])
            arrays = {
                # of an empty page no row shows the number of sources
                name: np.array(columns[name], dtype).reshape((rows, sources) if name in _BY_SOURCE else (rows,))
                for name, dtype in _COLUMN_TYPES.items()
            }
            return cls(
                trace.item_ids,
                np.array(trace.scores, np.float64),
                trace,
                values["short_reason"],
                None if cursor is None else decode_cursor(cursor)[: -rows or None],
                {"sources": tuple(columns["sources"]), **arrays},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"this is not a response of this engine: {error!r:.200}") from None

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go as planned: fallbacks, unknown items, rules that were relaxed."""
        return self.trace.flags

    @cached_property
    def next_cursor(self) -> str | None:
        """For `Request.cursor` of the next page; None where there can be none."""
        return None if self._shown is None else encode_cursor([*self._shown, *self.item_ids])

    @cached_property
    def items(self) -> list[RecommendedItem]:
        """Each place with its provenance and predictions."""
        of = self._columns
        origins = [
            tuple(
                Origin(name, rank, score)
                for name, rank, score in zip(of["sources"], ranks, scores, strict=True)
                if rank
            )
            for ranks, scores in zip(of["ranks"].tolist(), of["source_scores"].tolist(), strict=True)
        ]
        columns = (of[name].tolist() for name in ("pctr", "pcvr", "is_ad", "propensity"))
        return [
            RecommendedItem(*row) for row in zip(self.item_ids, self.scores.tolist(), origins, *columns, strict=True)
        ]


_BY_SOURCE = ("ranks", "source_scores")
_COLUMN_TYPES: dict[str, npt.DTypeLike] = {
    "ranks": np.int32,
    "source_scores": np.float32,
    "pctr": np.float32,
    "pcvr": np.float32,
    "is_ad": np.bool_,
    "propensity": np.float32,
}


def _json_values(column: Any) -> Any:
    if not isinstance(column, np.ndarray):
        return list(column)
    if column.dtype.kind != "f":
        return column.tolist()
    values = column.astype(object)
    # JSON has neither NaN nor infinities; both stand for what is not known
    values[~np.isfinite(column)] = None
    return values.tolist()
