"""A declared chain of rules: from ranked candidates to a page, with what each rule cost.

The page is filled with all rules at once (csrc/rerank/page.cpp), so a later rule never breaks an earlier one. What each
cost is found when somebody asks, by filling it after each rule with those so far, so that the costs add up. Where the
rules leave a position empty, the relaxable ones are given up for that position in the declared order, and the page says
so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native import rerank as native
from aitems_engine.catalog import ItemTable
from aitems_engine.errors import ConfigError
from aitems_engine.rerank.ads import Ads
from aitems_engine.rerank.diversity import Calibrated, Dpp, Mmr
from aitems_engine.rerank.draft import NEVER, Draft, Rule
from aitems_engine.rerank.exploration import Exploration
from aitems_engine.rerank.freshness import Freshness
from aitems_engine.rerank.mode import Price
from aitems_engine.rerank.options import Option, numbers, read_options, text, whole
from aitems_engine.rerank.rules import Bought, Cap, ExcludeAttribute, ExcludeItems, Seen, Spacing, Stock
from aitems_engine.rerank.slate import Reranked, RuleContext, Slate, Step

KINDS: dict[str, type[Rule]] = {
    rule.kind: rule
    for rule in (
        ExcludeItems, ExcludeAttribute, Seen, Bought, Stock, Price, Mmr, Dpp, Calibrated, Cap, Spacing, Freshness, Ads,
        Exploration,
    )
}  # fmt: skip
_ORDERS = ("mmr", "dpp", "calibrated")
_ONCE = ("seen", "bought", "stock", "price", "freshness", "ads", "exploration")
_DIALS = ("diversity", "exploration", "price")
_WEIGHTS = 10_000  # RuleContext.k is at most that
_TOP: dict[str, Option] = {
    "page_size": whole(1, 10_000, None),
    "position_weights": numbers(
        0,
        "a list of numbers, the first above 0, none larger than the one before",
        lambda w: bool(w) and w[0] > 0 and all(b <= a for a, b in pairwise(w)),
        (),
    ),
    "rules": Option("a list of objects", lambda x: isinstance(x, (list, tuple))),
    "relax": Option(
        "a list of names of rules", lambda x: isinstance(x, list) and all(isinstance(v, str) for v in x), ()
    ),
    "dial": Option("an object", lambda x: isinstance(x, Mapping), {}),
}
_PAIR = numbers(0, "two numbers from 0 upwards: for strolling, for goal-oriented users", lambda x: len(x) == 2, (1, 1))


@dataclass(frozen=True, eq=False)
class Chain:
    """See the module. Frozen, and safe for many threads.

    Attributes
    ----------
    config : mapping
        What it was made from.
    rules : tuple of (name, rule, level of relaxing)
    relax : tuple of str
        Names of rules in the order in which they are given up.
    """

    config: Mapping[str, Any]
    rules: tuple[tuple[str, Rule, int], ...]
    relax: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    dial: Mapping[str, tuple[float, float]]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], items: ItemTable | None = None) -> Chain:
        """Return the chain of a configuration (docs/reranking.md).

        Parameters
        ----------
        config : mapping
            A parsed JSON object.
        items : ItemTable, optional
            Turns the names of items and attribute values in the configuration into positions and codes, and lets more
            contradictions be found.

        Raises
        ------
        ConfigError
            An unknown key, a value that is not allowed, or rules that contradict each other; names the path.
        """
        top = read_options(config, _TOP, "config")
        page_size = top["page_size"]
        rules: dict[str, Rule] = {}
        for i, entry in enumerate(top["rules"]):
            path = f"rules[{i}]"
            kind = entry.get("rule") if isinstance(entry, Mapping) else None
            if not isinstance(kind, str) or kind not in KINDS:
                raise ConfigError(f"{path}.rule must be one of {', '.join(KINDS)}, got {str(kind)[:60]!r}")
            schema = {"rule": text(), "name": Option(text().says, text().fits, ""), **KINDS[kind].options}
            values = read_options(entry, schema, path)
            values.pop("rule")
            attribute = values.get("attribute")
            name = values.pop("name") or (f"{kind}:{attribute}" if attribute else kind)
            if name in rules:
                raise ConfigError(f"{path}: there is already a rule '{name}'; give one of them another name")
            rules[name] = _made(kind, values, items, path)
            _check_rule(rules[name], page_size, items, path)
        relax = top["relax"]
        _check_together(rules, relax, page_size, items)
        levels = {name: level for level, name in enumerate(relax, 1)}
        given = read_options(top["dial"], dict.fromkeys(_DIALS, _PAIR), "dial")
        weights = np.array(top["position_weights"] or 1 / np.log2(np.arange(2, _WEIGHTS + 2)), np.float64)
        return cls(
            config,
            tuple((name, rule, levels.get(name, NEVER)) for name, rule in rules.items()),
            relax,
            weights,
            given,
        )

    @classmethod
    def from_file(cls, path: str | Path, items: ItemTable | None = None) -> Chain:
        """Return the chain of a JSON file."""
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
        return cls.from_config(config, items)

    @cached_property
    def columns(self) -> set[str]:
        """Columns of the slate that the rules need, or use where they are there."""
        return {
            column for _, rule, _ in self.rules for column in (*rule.needs, *_one_of(rule), *getattr(rule, "uses", ()))
        }

    @property
    def attributes(self) -> set[str]:
        """Attributes that the rules need in `Slate.codes`."""
        return {a for _, rule, _ in self.rules if (a := getattr(rule, "attribute", None))}

    def run(self, slate: Slate, context: RuleContext) -> Reranked:
        """Return the page of a request.

        Notes
        -----
        Never raises for what a slate holds: rows with a score that is no number are left out, rules without their
        columns are skipped, and both are flagged. Equal for equal slate, context (with its seed) and configuration.
        """
        flags: list[str] = []
        draft = self._draft(slate, context, flags)
        took = [f"{name} took {draft.filtered}" for name, _ in self._applied(draft, flags) if draft.filtered]
        page = draft.page()
        if page[7]:
            flags.append("freshness_infeasible")
        relaxed = {}
        if draft.relax_levels and (reached := page[1]).any():
            relaxed = {
                name: count
                for level, name in enumerate(self.relax, 1)
                if (count := int(np.count_nonzero(reached >= level)))
            }
            flags += [f"relaxed {name}" for name in relaxed]
        short = None
        if len(page[0]) < context.k:
            taken = ", ".join(took)
            limits = ", ".join(name for name, rule, level in self.rules if rule.kind in ("cap", "spacing"))
            short = (
                f"{len(page[0])} of {context.k}: {len(slate)} candidates"
                + (f"; {taken}" if taken else "")
                + (f"; limits: {limits}" if limits else "")
                + (f"; given up: {', '.join(relaxed)}" if relaxed else "")
            )
            flags.append("short")
        again = partial(self._steps, slate, context)
        return Reranked(page[0], page[2], page[3], again, tuple(flags), relaxed, page[6], page[8], short)

    def _applied(self, draft: Draft, flags: list[str]) -> Iterator[tuple[str, str | None]]:
        """Apply rule after rule; yield its name and its note, None where the page stays as it is."""
        slate, context = draft.slate, draft.context
        for name, unwanted in (("previous_page", context.previous_items), ("request", context.excluded_items)):
            if unwanted is not None and len(unwanted):
                yield name, draft.drop(np.isin(slate.items, unwanted))
                draft.filtered = 0
        for name, rule, level in self.rules:
            missing = self._missing(rule, slate)
            if missing:
                flags.append(f"{name} skipped: no {missing}")
            yield name, None if missing else rule.apply(draft, level)
            draft.filtered = 0

    def _steps(self, slate: Slate, context: RuleContext) -> tuple[Step, ...]:
        """Return the pages that `run` would return with no rule, with the first one, and so on."""
        draft = self._draft(slate, context, [])
        page = draft.page()
        steps = [Step("", 0, page[0], page[4], page[5], "")]
        for name, note in self._applied(draft, []):
            if note is not None:
                page = draft.page()
            steps.append(Step(name, draft.filtered, page[0], page[4], page[5], note or ""))
        return tuple(steps)

    def dry_run(self, slate: Slate, context: RuleContext) -> str:
        """Return a table of what each rule does to this slate, for people who change a configuration."""
        page = self.run(slate, context)
        lines = [
            f"{'rule':<28}{'filtered':>9}{'dropped':>9}{'moved':>7}{'clicks':>11}{'revenue':>13}  note",
            f"{'(by score)':<28}{'':>25}{page.steps[0].clicks:>11.4f}{page.steps[0].revenue:>13.2f}",
        ]
        lines += [
            f"{e.rule:<28}{e.filtered:>9}{e.dropped:>9}{e.moved:>7}"
            f"{e.delta_clicks:>+11.4f}{e.delta_revenue:>+13.2f}  {e.note}"
            for e in page.ledger
        ]
        lines.append(f"{'(page)':<28}{'':>25}{page.steps[-1].clicks:>11.4f}{page.steps[-1].revenue:>13.2f}")
        lines += [f"flag: {flag}" for flag in page.flags]
        if page.short_reason:
            lines.append(f"short: {page.short_reason}")
        return "\n".join(lines)

    def position_weights(self, k: int) -> npt.NDArray[np.float64]:
        """Return how much each of `k` positions is looked at; after the last declared one all are like it."""
        declared = self.weights[:k]
        return declared if len(declared) == k else np.pad(declared, (0, k - len(declared)), mode="edge")

    def _draft(self, slate: Slate, context: RuleContext, flags: list[str]) -> Draft:
        scores = slate.scores
        order = native.falling_order(scores)
        if len(order) < len(scores):
            flags.append(f"scores that are no numbers: {len(scores) - len(order)}")
            scores = np.where(np.isfinite(scores), scores, 0.0)
        ads = np.zeros(0, np.int32)
        if slate.is_ad is not None:
            is_ad = slate.is_ad[order]
            ads, order = order[is_ad], order[~is_ad]
        goal = 0.5 if context.goal_probability is None else context.goal_probability
        return Draft(
            slate,
            context,
            self.position_weights(context.k),
            {name: (1 - goal) * stroll + goal * goal_oriented for name, (stroll, goal_oriented) in self.dial.items()},
            len(self.relax),
            scores,
            order,
            ads,
            np.zeros(len(slate), np.uint8),
        )

    @staticmethod
    def _missing(rule: Rule, slate: Slate) -> str | None:
        for column in rule.needs:
            if getattr(slate, column) is None:
                return column
        one_of = _one_of(rule)
        if one_of and all(getattr(slate, column) is None for column in one_of):
            return " or ".join(one_of)
        attribute = getattr(rule, "attribute", None)
        return attribute if attribute and not slate.has(attribute) else None


def _one_of(rule: Rule) -> tuple[str, ...]:
    """Return the columns of which the rule needs one."""
    return getattr(rule, "one_of", ())


def _made(kind: str, values: dict[str, Any], items: ItemTable | None, path: str) -> Rule:
    if kind == ExcludeItems.kind:
        return ExcludeItems.over(values["item_ids"], items, path)
    if kind == ExcludeAttribute.kind:
        return ExcludeAttribute.over(values["attribute"], values["values"], items, path)
    return KINDS[kind](**values)


def _check_rule(rule: Rule, page_size: int | None, items: ItemTable | None, path: str) -> None:
    """Raise for what contradicts itself."""
    attribute = getattr(rule, "attribute", None)
    if attribute and items is not None and attribute not in items.names:
        raise ConfigError(
            f"{path}.attribute: the catalogue has no '{attribute}'; it has {', '.join(items.names) or 'none'}"
        )
    if isinstance(rule, Spacing) and rule.most >= rule.window:
        raise ConfigError(f"{path}: at most {rule.most} in {rule.window} positions forbids nothing; most < window")
    if isinstance(rule, Freshness) and rule.max_age_days is None and rule.min_impressions is None:
        raise ConfigError(f"{path}: say what is cold: max_age_days, min_impressions or both")
    if isinstance(rule, Exploration):
        if rule.floor * rule.pool > 1:
            raise ConfigError(
                f"{path}: floor {rule.floor:g} for each of {rule.pool} in the pool is more than 1 together"
            )
        if rule.floor > rule.ceiling:
            raise ConfigError(f"{path}: floor {rule.floor:g} is above ceiling {rule.ceiling:g}")
        beyond = [slot for slot in rule.slots if page_size is not None and slot > page_size]
        if beyond:
            raise ConfigError(f"{path}.slots: position {beyond[0]} is beyond page_size {page_size}")


def _check_together(
    rules: Mapping[str, Rule], relax: tuple[str, ...], page_size: int | None, items: ItemTable | None
) -> None:
    """Raise for rules that contradict each other, as far as that can be known without candidates."""
    names = list(rules)
    kinds = [rule.kind for rule in rules.values()]
    for kind in _ONCE:
        if kinds.count(kind) > 1:
            raise ConfigError(f"rules: '{kind}' may stand once, got {kinds.count(kind)}")
    orders = [name for name, rule in rules.items() if rule.kind in _ORDERS]
    if len(orders) > 1:
        raise ConfigError(f"rules: {' and '.join(orders)} each make an order of their own; keep one of them")
    if orders and "price" in kinds and kinds.index("price") > names.index(orders[0]):
        raise ConfigError(f"rules: 'price' changes scores and would undo '{orders[0]}'; put it before")
    for i, name in enumerate(relax):
        if name not in rules:
            raise ConfigError(f"relax[{i}]: there is no rule '{name}'; rules are {', '.join(rules) or 'none'}")
        if not rules[name].relaxable:
            able = [n for n, rule in rules.items() if rule.relaxable]
            raise ConfigError(
                f"relax[{i}]: '{name}' is never given up; those that can be are {', '.join(able) or 'none of these'}"
            )
        if name in relax[:i]:
            raise ConfigError(f"relax[{i}]: '{name}' stands there twice")
    for name, rule in rules.items():
        if not isinstance(rule, (Cap, Spacing)) or items is None or page_size is None or name in relax:
            continue
        codes = items.codes[rule.attribute]
        allowed = np.ones(len(items.names[rule.attribute]), np.bool_)
        for other in rules.values():
            if isinstance(other, ExcludeAttribute) and other.attribute == rule.attribute:
                allowed &= ~other.table[:-1]
        span = page_size if isinstance(rule, Cap) else min(page_size, rule.window)
        if not (codes < 0).any() and int(allowed.sum()) * rule.most < span:
            raise ConfigError(
                f"rules: '{name}' allows {rule.most} each of {int(allowed.sum())} values of '{rule.attribute}', fewer "
                f"than the {span} positions it is for; allow more or list it in relax"
            )
