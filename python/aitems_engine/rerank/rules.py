"""Filters and limits: what may be shown at all, and how many of a kind stand how near to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import ConfigError
from aitems_engine.rerank.draft import Draft, codes_of
from aitems_engine.rerank.options import Option, text, texts, whole


@dataclass(frozen=True, eq=False)
class ExcludeItems:
    """Never show the items; `table` has a flag for each item of the catalogue."""

    table: npt.NDArray[np.bool_]
    kind: ClassVar[str] = "exclude_items"
    options: ClassVar[dict[str, Option]] = {"item_ids": texts()}
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = False

    @classmethod
    def over(cls, item_ids: tuple[str, ...], items: ItemTable | None, path: str) -> ExcludeItems:
        if items is None:
            raise ConfigError(f"{path}: item ids need the catalogue; pass items=ItemTable to Chain.from_config")
        table = np.zeros(len(items), np.bool_)
        found = items.positions(item_ids)
        table[found[found >= 0]] = True
        return cls(table)

    def apply(self, draft: Draft, level: int) -> str | None:
        return draft.drop(self.table[draft.slate.items], level)


@dataclass(frozen=True, eq=False)
class ExcludeAttribute:
    """Never show items with one of the values; `table` has a flag for each code and a last one for unknown (-1)."""

    attribute: str
    table: npt.NDArray[np.bool_]
    kind: ClassVar[str] = "exclude_attribute"
    options: ClassVar[dict[str, Option]] = {"attribute": text(), "values": texts()}
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = False

    @classmethod
    def over(cls, attribute: str, values: tuple[str, ...], items: ItemTable | None, path: str) -> ExcludeAttribute:
        names = codes_of(items, attribute, path)
        wanted = set(values)
        table = np.array([*(name in wanted for name in names), False], np.bool_)
        if names and table[:-1].all():
            raise ConfigError(f"{path}.values: excludes every value of '{attribute}'; no item with one could be shown")
        return cls(attribute, table)

    def apply(self, draft: Draft, level: int) -> str | None:
        return draft.drop(self.table[draft.slate.attribute(self.attribute)], level)


@dataclass(frozen=True)
class Seen:
    """Leave out what the user has seen."""

    kind: ClassVar[str] = "seen"
    options: ClassVar[dict[str, Option]] = {}
    needs: ClassVar[tuple[str, ...]] = ("seen",)
    relaxable: ClassVar[bool] = True

    def apply(self, draft: Draft, level: int) -> str | None:
        assert draft.slate.seen is not None
        return draft.drop(draft.slate.seen, level)


@dataclass(frozen=True)
class Bought:
    """Leave out what the user has bought."""

    kind: ClassVar[str] = "bought"
    options: ClassVar[dict[str, Option]] = {}
    needs: ClassVar[tuple[str, ...]] = ("bought",)
    relaxable: ClassVar[bool] = True

    def apply(self, draft: Draft, level: int) -> str | None:
        assert draft.slate.bought is not None
        return draft.drop(draft.slate.bought, level)


@dataclass(frozen=True)
class Stock:
    """Never show what cannot be bought now."""

    kind: ClassVar[str] = "stock"
    options: ClassVar[dict[str, Option]] = {}
    needs: ClassVar[tuple[str, ...]] = ("in_stock",)
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        assert draft.slate.in_stock is not None
        return draft.drop(~draft.slate.in_stock, level)


@dataclass(frozen=True)
class Cap:
    """At most `most` items with one value of the attribute on the page."""

    attribute: str
    most: int
    kind: ClassVar[str] = "cap"
    options: ClassVar[dict[str, Option]] = {"attribute": text(), "most": whole(1, 10_000)}
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = True

    def apply(self, draft: Draft, level: int) -> str | None:
        draft.limit(self.attribute, self.most, 10_000, level)
        return ""


@dataclass(frozen=True)
class Spacing:
    """At most `most` items with one value of the attribute in any `window` consecutive positions, also across pages."""

    attribute: str
    window: int
    most: int
    kind: ClassVar[str] = "spacing"
    options: ClassVar[dict[str, Option]] = {
        "attribute": text(),
        "window": whole(2, 10_000),
        "most": whole(1, 10_000, 1),
    }
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = True

    def apply(self, draft: Draft, level: int) -> str | None:
        previous = draft.context.previous_codes.get(self.attribute)
        before = [] if previous is None else previous[1 - self.window :].tolist()
        draft.limit(self.attribute, self.most, self.window, level, before)
        return ""
