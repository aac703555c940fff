"""A page in the making: what rules read and change. `page` fills it with what has been declared so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from aitems_engine._native import rerank as native
from aitems_engine.catalog import ItemTable
from aitems_engine.errors import ConfigError
from aitems_engine.rerank.options import Option
from aitems_engine.rerank.slate import Flags, RuleContext, Slate

NEVER = 255
"""The level of a rule that is never given up."""


class Rule(Protocol):
    """A pure function of a draft with its options. `apply` returns a note, or None where the page stays as it is."""

    kind: ClassVar[str]
    options: ClassVar[dict[str, Option]]
    needs: ClassVar[tuple[str, ...]]
    """Columns of the slate."""
    relaxable: ClassVar[bool]

    def apply(self, draft: Draft, level: int) -> str | None:
        """Change the draft; `level` is the step of relaxing at which this rule is given up, `NEVER` for most."""
        ...


@dataclass(eq=False)
class Draft:
    """See the module; rows are rows of the slate.

    Attributes
    ----------
    scores : float64 array, shape (n,)
    organic, ads : int32 arrays
        Rows that may be shown, in order of preference.
    levels : uint8 array, shape (n,)
        0 = may be shown; l = only where relaxing has reached level l; `NEVER` = never, and not in `organic` or `ads`.
    """

    slate: Slate
    context: RuleContext
    weights: npt.NDArray[np.float64]
    dials: dict[str, float]
    relax_levels: int
    scores: npt.NDArray[np.float64]
    organic: npt.NDArray[np.int32]
    ads: npt.NDArray[np.int32]
    levels: npt.NDArray[np.uint8]
    spacings: list[tuple[npt.NDArray[np.int32], bool, list[int], int, int, int]] = field(default_factory=list)
    """Codes, whether these are by item of the catalogue, codes before the page, most, window, level."""
    cold: tuple[npt.NDArray[np.uint8], float, float, float] | None = None
    ad_rules: tuple[int, int, float, float, float] | None = None
    exploration: (
        tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.uint8], float, float, float, int] | None
    ) = None
    filtered: int = 0
    soft: bool = False
    """Whether `organic` has rows that are there for relaxing only."""

    def drop(self, rows: Flags, level: int = NEVER) -> str | None:
        """Take rows out, for good or up to a level of relaxing."""
        self.filtered = int(np.count_nonzero(rows))
        if not self.filtered:
            return None
        np.maximum(self.levels, level, out=self.levels, where=rows)
        if level == NEVER:
            self.organic = self.organic[~rows[self.organic]]
            self.ads = self.ads[~rows[self.ads]]
        else:
            self.soft = True
        return ""

    def best(self, pool: int) -> npt.NDArray[np.int32]:
        """Return the first organic rows that may be shown without relaxing anything."""
        if not self.soft:
            return self.organic[:pool]
        rows: npt.NDArray[np.int32] = self.organic[self.levels[self.organic] == 0][:pool]
        return rows

    def put_first(self, rows: npt.NDArray[np.int32]) -> None:
        """Prefer these organic rows, in this order, to all others."""
        self.organic = native.put_first(rows, self.organic, len(self.slate))

    def relevance(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Return the scores of the rows, from 0 (the least of them) to 1 (the greatest)."""
        return native.relevance(self.scores, rows)

    def limit(self, attribute: str, most: int, window: int, level: int, before: list[int] | None = None) -> None:
        """Allow at most `most` rows with one value in a window; `before`: codes of what stands before the page."""
        codes, by_item = self.slate.codes_to_look_up(attribute)
        self.spacings.append((codes, by_item, before or [], most, window, level))

    def page(self) -> tuple[Any, ...]:
        """Fill the page; see csrc/rerank/page.hpp."""
        slate = self.slate
        return native.fill_page(
            self.weights, slate.items, self.scores, self.organic, self.ads, self.levels, self.relax_levels,
            self.spacings, self.cold, self.ad_rules, self.exploration, slate.pctr, slate.pcvr, slate.price, slate.bid,
        )  # fmt: skip


def codes_of(items: ItemTable | None, attribute: str, path: str) -> list[str]:
    """Return the names of an attribute's values, or raise a `ConfigError` that says what there is."""
    if items is None:
        raise ConfigError(f"{path}: names of values need the catalogue; pass items=ItemTable to Chain.from_config")
    if attribute not in items.names:
        raise ConfigError(f"{path}: the catalogue has no attribute '{attribute}'; it has {', '.join(items.names)}")
    return items.names[attribute]
