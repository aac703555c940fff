"""Who did something with which item, when: one packed history a user, oldest first.

Ids are the shop's text; inside, users and items are positions in `user_ids` and `item_ids`. Nothing here knows files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError

IntVector = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Packed histories.

    Attributes
    ----------
    user_ids, item_ids : list of str
        Distinct; an item may occur in no history.
    splits : int64 array, shape (num_users + 1,)
        The history of user u is ``items[splits[u]:splits[u + 1]]``.
    items : int32 array, shape (num_interactions,)
        Positions in `item_ids`, oldest first within a history; an item may come several times.
    times : int64 array, shape (num_interactions,)
        Milliseconds since 1970 (UTC), not falling within a history; -1 where unknown.
    counts : mapping of str to int
        What was seen when the histories were made, for reports: events read, left out, out of order, repeated.
    bought : bool array, shape (num_interactions,), optional
        Which of them are purchases, where that is known.
    """

    user_ids: list[str]
    item_ids: list[str]
    splits: Offsets
    items: IntVector
    times: Offsets
    counts: Mapping[str, int] = field(default_factory=dict)
    bought: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.items)
        if (
            self.splits.shape != (len(self.user_ids) + 1,)
            or self.splits[0] != 0
            or self.splits[-1] != n
            or (np.diff(self.splits) < 0).any()
            or self.times.shape != (n,)
        ):
            raise InvalidInputError(
                f"splits must ascend from 0 to the number of items ({n}) with one more than users "
                f"({len(self.user_ids)}), and times have one value an item ({len(self.times)})"
            )
        if n and not (self.items.min() >= 0 and self.items.max() < len(self.item_ids)):
            raise InvalidInputError(f"items must be positions from 0 to {len(self.item_ids) - 1}")
        if self.bought is not None and (self.bought.dtype != np.bool_ or self.bought.shape != (n,)):
            raise InvalidInputError(f"bought must be bool of shape ({n},), got {self.bought.dtype} {self.bought.shape}")

    @classmethod
    def from_events(
        cls,
        users: Sequence[str],
        items: Sequence[str],
        times: npt.NDArray[np.int64] | None = None,
        *,
        counts: Mapping[str, int] | None = None,
        bought: npt.NDArray[np.bool_] | None = None,
    ) -> Interactions:
        """Return the histories of events in any order; events of one time (or without one) keep theirs.

        Users and items are numbered in the order of their first event.
        """
        n = len(users)
        when = np.full(n, -1, np.int64) if times is None else np.asarray(times, np.int64)
        if len(items) != n or when.shape != (n,):
            raise InvalidInputError(f"users, items and times must have one length, got {n}, {len(items)}, {len(when)}")
        user_ids, user_of = numbered(users)
        item_ids, item_of = numbered(items)
        order = np.lexsort((when, user_of))  # stable
        splits = np.zeros(len(user_ids) + 1, np.int64)
        np.cumsum(np.bincount(user_of, minlength=len(user_ids)), out=splits[1:])
        arrived = np.argsort(user_of, kind="stable")
        late = int(np.count_nonzero((np.diff(when[arrived]) < 0) & (np.diff(user_of[arrived]) == 0)))
        return cls(
            user_ids,
            item_ids,
            splits,
            item_of[order].astype(np.int32),
            when[order],
            {"events": n, **(counts or {}), "out_of_order": late},
            None if bought is None else bought[order],
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything but the ids, for a file."""
        packed: dict[str, npt.NDArray[Any]] = {"splits": self.splits, "items": self.items, "times": self.times}
        return packed if self.bought is None else {**packed, "bought": self.bought.astype(np.uint8)}

    @classmethod
    def restore(cls, user_ids: list[str], item_ids: list[str], arrays: Mapping[str, npt.NDArray[Any]]) -> Interactions:
        """Return the histories that `arrays` came from."""
        bought = arrays["bought"].astype(np.bool_) if "bought" in arrays else None
        return cls(user_ids, item_ids, arrays["splits"], arrays["items"], arrays["times"], bought=bought)

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.item_ids)

    def history(self, user: int) -> IntVector:
        """Return the items of one user, oldest first."""
        return self.items[self.splits[user] : self.splits[user + 1]]

    def users(self) -> IntVector:
        """Return the user of each interaction, int32 (num_interactions,)."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.splits))

    def take(self, users: npt.NDArray[np.integer[Any]] | slice) -> Interactions:
        """Return the histories of the given users (positions), in that order, over the same items."""
        rows = np.arange(len(self))[users]
        return self._keep(rows, np.ones(len(self.items), bool))

    def where(self, kept: npt.NDArray[np.bool_]) -> Interactions:
        """Return all users with the interactions that `kept` (one flag each) says."""
        return self._keep(np.arange(len(self)), kept)

    def _keep(self, rows: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> Interactions:
        lengths = np.diff(self.splits)[rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        index = np.arange(starts[-1]) + np.repeat(self.splits[rows] - starts[:-1], lengths)
        flags = kept[index]
        splits = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.bincount(np.repeat(np.arange(len(rows)), lengths)[flags], minlength=len(rows)), out=splits[1:])
        chosen = index[flags]
        return Interactions(
            [self.user_ids[r] for r in rows.tolist()],
            self.item_ids,
            splits,
            self.items[chosen],
            self.times[chosen],
            self.counts,
            None if self.bought is None else self.bought[chosen],
        )

    def of_users(self, user_ids: Sequence[str]) -> Interactions:
        """Return the histories of the given users, in that order; a user who is not there has an empty one."""
        position = {user: i for i, user in enumerate(self.user_ids)}
        padded = Interactions(
            [*self.user_ids, ""],
            self.item_ids,
            np.append(self.splits, self.splits[-1]),
            self.items,
            self.times,
            self.counts,
            self.bought,
        )
        found = padded.take(np.array([position.get(user, len(self)) for user in user_ids], np.int64))
        return replace(found, user_ids=list(user_ids))

    def over(self, item_ids: Sequence[str]) -> Interactions:
        """Return the same histories over another catalogue; interactions with items that it lacks are left out."""
        position = {item: i for i, item in enumerate(item_ids)}
        new = np.array([position.get(item, -1) for item in self.item_ids], np.int32)
        return self.translated(new, list(item_ids))

    def translated(self, positions: IntVector, item_ids: list[str]) -> Interactions:
        """Return the same histories over another catalogue.

        Parameters
        ----------
        positions : int32 array, shape (num_items,)
            Where each item lies in `item_ids`; -1 leaves its interactions out.
        item_ids : list of str
        """
        items = positions[self.items]
        known = items >= 0
        unknown = len(items) - int(np.count_nonzero(known))
        return Interactions(
            self.user_ids,
            item_ids,
            np.concatenate([[0], np.cumsum(known)])[self.splits],
            items[known],
            self.times[known],
            {**self.counts, "unknown_items": unknown},
            None if self.bought is None else self.bought[known],
        )


def numbered(values: Sequence[Any]) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the distinct values in the order of their first occurrence, and each value's number."""
    number: dict[Any, int] = {}
    positions = np.fromiter((number.setdefault(v, len(number)) for v in values), np.int64, len(values))
    return list(number), positions
