"""A placement: the recipe of one place in the shop, declared in the bundle and checked when it is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import ConfigError
from aitems_engine.ranking import Objective
from aitems_engine.rerank import Chain

MAX_BUDGET = 100_000
DEFAULT_OBJECTIVE = "pctr"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Placement:
    """How a page is made.

    Attributes
    ----------
    name : str
    retrievers : mapping of retriever name to int
        How many candidates each may bring.
    budget : int
        Candidates that are ranked, at most.
    exclude_seen : bool
        Items of the history are not shown.
    rank : bool
        False: the merged retrieval scores decide.
    objective : Objective
        What a page is ordered by.
    rules : Chain
    deadline_ms : float, optional
        Where the request has none.
    ads : int
        Ads that may compete, those with the highest bids; 0 = none.
    """

    name: str
    retrievers: Mapping[str, int]
    budget: int
    exclude_seen: bool
    rank: bool
    objective: Objective
    rules: Chain
    deadline_ms: float | None
    ads: int

    @classmethod
    def from_dict(cls, name: str, values: Any, retrievers: tuple[str, ...], items: ItemTable) -> Placement:
        """Return the placement that JSON values describe.

        Parameters
        ----------
        name : str
        values : mapping
            `retrievers` (name -> quota, or a list of names with the whole budget each), `budget`, `exclude_seen`,
            `rank`, `objective`, `rules` (see rerank/chain.py), `deadline_ms`, `ads`; all optional.
        retrievers : tuple of str
            Those that are there; all of them are used where the placement names none.
        items : ItemTable
            What attributes and items the rules may name.

        Raises
        ------
        ConfigError
            Names the placement, the key and what is allowed.
        """
        where = f"placement '{name}'"
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: a name has 1 to 64 letters, digits, '-' and '_'")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must be an object, got {type(values).__name__}")
        known = ("retrievers", "budget", "exclude_seen", "rank", "objective", "rules", "deadline_ms", "ads")
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: no setting '{str(key)[:40]}'; there are {', '.join(known)}")
        budget = _whole(where, "budget", values.get("budget", 1000), 1, MAX_BUDGET)
        quotas = values.get("retrievers", list(retrievers))
        if isinstance(quotas, list):
            quotas = dict.fromkeys(quotas, budget)
        if not isinstance(quotas, Mapping) or not quotas:
            raise ConfigError(f"{where}: retrievers must be a list of names or an object name -> quota, and not empty")
        for retriever, quota in quotas.items():
            if retriever not in retrievers:
                raise ConfigError(f"{where}: no retriever '{str(retriever)[:40]}'; there are {', '.join(retrievers)}")
            _whole(where, f"quota of '{retriever}'", quota, 1, MAX_BUDGET)
        deadline = values.get("deadline_ms")
        if deadline is not None and (
            not isinstance(deadline, (int, float)) or isinstance(deadline, bool) or not 0 < deadline < 1e9
        ):
            raise ConfigError(f"{where}: deadline_ms must be a number above 0, got {deadline!r:.40}")
        try:
            objective = Objective.parse(values.get("objective", DEFAULT_OBJECTIVE))
            rules = Chain.from_config(values.get("rules", {"rules": []}), items)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        return cls(
            name,
            dict(quotas),
            budget,
            _flag(where, "exclude_seen", values.get("exclude_seen", True)),
            _flag(where, "rank", values.get("rank", True)),
            objective,
            rules,
            deadline,
            _whole(where, "ads", values.get("ads", 0), 0, MAX_BUDGET),
        )


def _whole(where: str, key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{where}: {key} must be a whole number from {low} to {high}, got {value!r:.40}")
    return value


def _flag(where: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} must be true or false, got {value!r:.40}")
    return value
