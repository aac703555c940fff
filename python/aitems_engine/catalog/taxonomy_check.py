"""Records -> a checked `Taxonomy`: ids unique, every parent there, no cycle, names not empty, leaf paths unique.

Depth is not limited and nothing here is recursive: nodes are ordered level by level from the top (Kahn), and what is
never reached lies on a cycle or hangs below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from aitems_engine.catalog.taxonomy import SEPARATOR, Taxonomy
from aitems_engine.catalog.taxonomy_file import NodeRecord
from aitems_engine.errors import TaxonomyError

MAX_ID_CHARS = 256
MAX_NAME_CHARS = 1000


def check_and_order(records: Sequence[NodeRecord], source: str, repair: bool) -> Taxonomy:
    """Return the tree of the records, or raise `TaxonomyError` with the first row that is wrong."""
    if not records:
        raise TaxonomyError(f"{source}: no category")
    row_of = _check_fields(records, source)
    repairs: list[str] = []
    records = list(records)
    orphans = [r for r in records if r.parent_id and r.parent_id not in row_of]
    if orphans and repair:
        records += _missing_parents(records, orphans, source, repairs)
    elif orphans:
        first = orphans[0]
        raise TaxonomyError(
            f"{source}, row {first.row}: parent '{first.parent_id}' of category '{first.category_id}' does not exist"
            + (f" ({len(orphans)} such rows in all)" if len(orphans) > 1 else "")
            + "; repair=True creates parents that a path column names"
        )
    levels = _levels(records, source)
    order = [i for level in levels for i in level]
    position = {records[i].category_id: k for k, i in enumerate(order)}
    parents = np.array([position.get(records[i].parent_id, -1) for i in order], dtype=np.int32)
    leaves = _leaves(records, source)
    names = _names_with_unique_leaf_paths(records, order, parents, leaves, source, repair, repairs)
    bounds = np.cumsum([0, *map(len, levels)])
    return Taxonomy(
        node_ids=tuple(records[i].category_id for i in order),
        names=tuple(names),
        parents=parents,
        leaf_nodes=np.array([position[records[i].category_id] for i in leaves], dtype=np.int32),
        repairs=tuple(repairs),
        _position=position,
        _levels=tuple(np.arange(a, b, dtype=np.int32) for a, b in pairwise(bounds.tolist())),
    )


def _check_fields(records: Sequence[NodeRecord], source: str) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for r in records:
        if not r.category_id:
            raise TaxonomyError(f"{source}, row {r.row}: the category id is empty")
        if len(r.category_id) > MAX_ID_CHARS or len(r.name) > MAX_NAME_CHARS:
            raise TaxonomyError(
                f"{source}, row {r.row}: id or name is too long "
                f"(limits: {MAX_ID_CHARS} and {MAX_NAME_CHARS} characters)"
            )
        if not r.name:
            raise TaxonomyError(f"{source}, row {r.row}: category '{r.category_id}' has an empty name")
        if r.category_id in row_of:
            raise TaxonomyError(
                f"{source}, row {r.row}: category id '{r.category_id}' is already used in row {row_of[r.category_id]}"
            )
        row_of[r.category_id] = r.row
    return row_of


def _missing_parents(
    records: Sequence[NodeRecord], orphans: Sequence[NodeRecord], source: str, repairs: list[str]
) -> list[NodeRecord]:
    """Return records for parents that only the paths of their children name, up to an existing node or a new top."""
    node_at = {r.path: r.category_id for r in records if r.path}
    used = {r.category_id for r in records}
    made: list[NodeRecord] = []

    def make(node_id: str, path: tuple[str, ...], row: int) -> None:
        while True:
            above = path[:-1]
            known = node_at.get(SEPARATOR.join(above), "") if above else ""
            parent_id = known or (f"path:{SEPARATOR.join(above)}" if above else "")
            made.append(NodeRecord(row, node_id, parent_id, path[-1], SEPARATOR.join(path), False))
            node_at.setdefault(SEPARATOR.join(path), node_id)
            used.add(node_id)
            repairs.append(f"row {row}: created missing parent '{node_id}' ({SEPARATOR.join(path)})")
            if known or not above or parent_id in used:
                return
            node_id, path = parent_id, above

    for r in orphans:
        if r.parent_id in used:
            continue
        path = tuple((r.path or "").split(SEPARATOR))[:-1]
        if not path:
            raise TaxonomyError(
                f"{source}, row {r.row}: parent '{r.parent_id}' of category '{r.category_id}' does not exist, "
                "and there is no path to make it from"
            )
        make(r.parent_id, path, r.row)
    return made


def _levels(records: Sequence[NodeRecord], source: str) -> list[list[int]]:
    """Return record positions level by level from the top, the children of one parent side by side."""
    children: dict[str, list[int]] = {}
    for i, r in enumerate(records):
        children.setdefault(r.parent_id, []).append(i)
    levels: list[list[int]] = []
    level = children.get("", [])
    while level:
        levels.append(level)
        level = [child for i in level for child in children.get(records[i].category_id, ())]
    reached = {i for level in levels for i in level}
    if len(reached) == len(records):
        return levels
    # walk up from an unreached node: as no parent is missing, the walk must come round
    walk = next(i for i in range(len(records)) if i not in reached)
    row_at = {r.category_id: i for i, r in enumerate(records)}
    step_of: dict[int, int] = {}
    while walk not in step_of:
        step_of[walk] = len(step_of)
        walk = row_at[records[walk].parent_id]
    cycle = list(step_of)[step_of[walk] :]
    shown = " -> ".join(f"'{records[i].category_id}'" for i in [*cycle[:5], cycle[0]])
    raise TaxonomyError(
        f"{source}, row {min(records[i].row for i in cycle)}: cycle of {len(cycle)} categories: {shown}"
    )


def _leaves(records: Sequence[NodeRecord], source: str) -> list[int]:
    inner = {r.parent_id for r in records}
    leaves = []
    for i, r in enumerate(records):
        if r.is_leaf and r.category_id in inner:
            raise TaxonomyError(f"{source}, row {r.row}: '{r.category_id}' is marked as a leaf, but has children")
        if r.is_leaf or (r.is_leaf is None and r.category_id not in inner):
            leaves.append(i)
    if not leaves:
        raise TaxonomyError(f"{source}: no leaf")
    return leaves


def _names_with_unique_leaf_paths(
    records: list[NodeRecord],
    order: list[int],
    parents: np.ndarray[tuple[int], np.dtype[np.int32]],
    leaves: list[int],
    source: str,
    repair: bool,
    repairs: list[str],
) -> list[str]:
    # the path of a leaf is told by its name and the path of its parent; numbering paths keeps deep trees linear
    number_of: dict[tuple[int, str], int] = {}
    path_number: list[int] = []
    is_leaf, first_with, names = set(leaves), dict[int, int](), []
    for k, i in enumerate(order):
        above = path_number[parents[k]] if parents[k] >= 0 else -1
        key = (above, records[i].name)
        number = number_of.setdefault(key, len(number_of))
        if i in is_leaf and number in first_with:
            if not repair:
                raise TaxonomyError(
                    f"{source}, row {records[i].row}: leaf '{records[i].category_id}' has the same path as "
                    f"'{records[first_with[number]].category_id}' in row {records[first_with[number]].row}: "
                    f"'{records[i].name}'; repair=True adds the id to its name"
                )
            records[i] = replace(records[i], name=f"{records[i].name} ({records[i].category_id})")
            repairs.append(f"row {records[i].row}: leaf path was not unique, renamed to '{records[i].name}'")
            number = number_of.setdefault((above, records[i].name), len(number_of))
        if i in is_leaf:
            first_with[number] = i
        path_number.append(number)
        names.append(records[i].name)
    return names
