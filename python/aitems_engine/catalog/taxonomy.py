"""The category tree: nodes with one parent each, whose leaves are the labels of the classifier.

Reads CSV/TSV (`category_id,parent_id,name`, or `path` with an optional `is_leaf` instead of `name`) and JSON (a flat
list of the same records, or nested `children`). A tree that cannot be trusted - cycle, orphan, duplicate - is refused
with its row; `repair=True` mends what can be mended and lists it in `repairs`. Nodes are kept parents first, so that
every pass over the tree is one loop over its levels, whatever its depth. It knows nothing of products or models.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.taxonomy_file import NodeRecord, read_records
from aitems_engine.errors import InvalidInputError

SEPARATOR = " > "


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """A category forest with unique node ids and unique leaf paths.

    Attributes
    ----------
    node_ids : tuple of str
        Parents before children; siblings and leaves keep the order of the file.
    names : tuple of str
    parents : int32 array, shape (num_nodes,)
        Position of the parent, -1 for a top category.
    leaf_nodes : int32 array, shape (num_leaves,)
        Positions of the leaves, in the order of the file.
    repairs : tuple of str
        What `read(..., repair=True)` changed, one sentence each.
    """

    node_ids: tuple[str, ...]
    names: tuple[str, ...]
    parents: npt.NDArray[np.int32]
    leaf_nodes: npt.NDArray[np.int32]
    repairs: tuple[str, ...] = ()
    _position: dict[str, int] = field(default_factory=dict, repr=False)
    _levels: tuple[npt.NDArray[np.int32], ...] = field(default=(), repr=False)
    # in tree order, where the leaves of any node stand side by side: those of node i are [begin[i], end[i])
    _leaf_begin: npt.NDArray[np.int64] = field(init=False, repr=False)
    _leaf_end: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = np.zeros(len(self.node_ids), dtype=np.int64)
        counts[self.leaf_nodes] = 1
        for level in reversed(self._levels[1:]):
            np.add.at(counts, self.parents[level], counts[level])
        begin = np.zeros(len(self.node_ids), dtype=np.int64)
        for depth, level in enumerate(self._levels):
            # leaves of the siblings before; the children of one parent stand side by side in a level
            before = np.cumsum(counts[level]) - counts[level]
            if depth:
                owners = self.parents[level]
                first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
                before -= np.repeat(before[first], np.diff(np.r_[first, len(level)]))
                before += begin[owners]
            begin[level] = before
        # frozen: set once, here
        object.__setattr__(self, "_leaf_begin", begin)
        object.__setattr__(self, "_leaf_end", begin + counts)

    # ---- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | Path, *, repair: bool = False) -> Taxonomy:
        """Read a tree from CSV, TSV or JSON (by suffix).

        Parameters
        ----------
        path : path
            Columns `category_id`, `parent_id` (empty for a top category) and `name`, or `path` (names from the top,
            joined by " > "); an optional `is_leaf` (0/1) says which nodes take products, otherwise those without
            children.
        repair : bool
            Create parents that are missing but named by the `path` of their children, and tell leaves of the same path
            apart by adding their id to the name. Each change is listed in `repairs`.

        Raises
        ------
        TaxonomyError
            Damaged file, cycle, orphan, duplicate id, duplicate leaf path, empty name, no leaf; names the row.
        """
        return cls.from_records(read_records(Path(path)), source=Path(path).name, repair=repair)

    @classmethod
    def from_csv(cls, text: str, *, source: str = "taxonomy.csv") -> Taxonomy:
        """Read a tree from the text of a CSV file, as a bundle holds it."""
        from aitems_engine.catalog.taxonomy_file import records_of_csv

        return cls.from_records(records_of_csv(text, source, ","), source=source)

    @classmethod
    def flat(cls, labels: Iterable[str]) -> Taxonomy:
        """Return a tree of one level: every label is a top category and a leaf.

        Raises
        ------
        TaxonomyError
            An empty or duplicate label, or none at all.
        """
        records = [NodeRecord(i + 1, label, "", label, None, None) for i, label in enumerate(labels)]
        return cls.from_records(records, source="labels")

    @classmethod
    def from_records(cls, records: Sequence[NodeRecord], *, source: str, repair: bool = False) -> Taxonomy:
        """Check records and build the tree; see `read`."""
        from aitems_engine.catalog.taxonomy_check import check_and_order

        return check_and_order(records, source, repair)

    # ---- looking up ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.node_ids)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._position

    @property
    def leaf_ids(self) -> list[str]:
        """Ids of the leaves in the order of the file."""
        return [self.node_ids[i] for i in self.leaf_nodes]

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self._levels)

    def position(self, node_id: str) -> int:
        """Return the position of a node in `node_ids`.

        Raises
        ------
        InvalidInputError
            No such node.
        """
        try:
            return self._position[node_id]
        except (KeyError, TypeError):
            raise InvalidInputError(f"no category '{node_id}' in this taxonomy of {len(self)} nodes") from None

    def positions(self, node_ids: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the positions of several nodes, int32."""
        return np.fromiter((self.position(i) for i in node_ids), dtype=np.int32)

    def lineages(self, nodes: Iterable[int]) -> list[tuple[int, ...]]:
        """Return, for each node position, the positions from its top category down to the node itself."""
        return [tuple(self._lineage(int(node))) for node in nodes]

    def lineage(self, node_id: str) -> list[str]:
        """Return the ids from the top category down to the node itself."""
        return [self.node_ids[i] for i in self._lineage(self.position(node_id))]

    def ancestors(self, node_id: str) -> list[str]:
        """Return the ids from the parent up to the top category; empty for a top category."""
        return self.lineage(node_id)[-2::-1]

    def top(self, node_id: str) -> str:
        """Return the id of the top category above a node (the node itself where it is one)."""
        return self.node_ids[self._lineage(self.position(node_id))[0]]

    @property
    def top_ids(self) -> list[str]:
        """Ids of the top categories."""
        return [self.node_ids[i] for i in self._levels[0]]

    def name_path(self, node_id: str) -> tuple[str, ...]:
        """Return the names from the top category down to the node."""
        return tuple(self.names[i] for i in self._lineage(self.position(node_id)))

    def path(self, node_id: str) -> str:
        """Return the names from the top category down to the node, joined by " > "."""
        return SEPARATOR.join(self.name_path(node_id))

    def _lineage(self, position: int) -> list[int]:
        up = []
        while position >= 0:
            up.append(position)
            position = int(self.parents[position])
        return up[::-1]

    # ---- numbers over the tree -------------------------------------------------------------------------------------

    def node_probabilities(
        self, probabilities: npt.NDArray[np.floating[Any]], leaves: npt.NDArray[np.integer[Any]] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every node: a leaf has its own, a parent the sum of its children.

        Parameters
        ----------
        probabilities : float array, shape (num_rows, num_columns)
            Each row over the leaves.
        leaves : int array, shape (num_columns,), optional
            Position of the node that each column stands for (see `positions`); default `leaf_nodes`.

        Returns
        -------
        float32 array, shape (num_rows, num_nodes)
            Sums are taken in float64, so that the top level adds up to 1 within 1e-6 for any number of leaves.

        Notes
        -----
        Leaves are laid out so that those of any node stand side by side; a running sum then gives each node as one
        difference. O(num_rows * num_nodes); the slow twin is in tests/reference/slow_metrics.py.
        """
        columns, values = self._checked_columns(probabilities, leaves)
        result = np.empty((len(values), len(self)), dtype=np.float32)
        for rows, sums in self._running_sums(values, columns):
            result[rows] = sums[:, self._leaf_end] - sums[:, self._leaf_begin]
        # exact, where a difference of sums would round
        result[:, columns] = values
        return result

    def leaf_ranges(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return begin and end of each node's leaves in tree order, two int64 arrays of shape (num_nodes,)."""
        return self._leaf_begin, self._leaf_end

    def _checked_columns(
        self, probabilities: npt.NDArray[np.floating[Any]], leaves: npt.NDArray[np.integer[Any]] | None
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.floating[Any]]]:
        columns = self.leaf_nodes if leaves is None else np.asarray(leaves)
        values = np.asarray(probabilities)
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise InvalidInputError(
                f"probabilities must have shape (rows, {len(columns)}), one column a leaf, got {values.shape}"
            )
        return columns, values

    def _running_sums(
        self, values: npt.NDArray[np.floating[Any]], columns: npt.NDArray[np.integer[Any]]
    ) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield rows and their running sums over the leaves in tree order, float64, a few rows at a time (1 MB)."""
        slots = self._leaf_begin[columns] + 1
        step = max(1, (1 << 17) // (len(self.leaf_nodes) + 1))
        for start in range(0, len(values), step):
            rows = slice(start, min(start + step, len(values)))
            sums = np.zeros((rows.stop - start, len(self.leaf_nodes) + 1))
            sums[:, slots] = values[rows]
            np.cumsum(sums, axis=1, out=sums)
            yield rows, sums

    def depths(self) -> npt.NDArray[np.int32]:
        """Return the level of every node, 0 for top categories; int32, shape (num_nodes,)."""
        result = np.empty(len(self), dtype=np.int32)
        for depth, level in enumerate(self._levels):
            result[level] = depth
        return result

    def common_depth(
        self, first: npt.NDArray[np.integer[Any]], second: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.int32]:
        """Return how many ancestors (themselves included) the nodes of each pair share; int32, 0 when none."""
        depths = self.depths()
        a, b = np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)
        for _ in range(self.depth + 1):
            differ = a != b
            if not differ.any():
                break
            depth_a = np.where(a >= 0, depths[a], -1)
            depth_b = np.where(b >= 0, depths[b], -1)
            # the deeper one climbs; both where they are level
            climb_a, climb_b = differ & (depth_a >= depth_b), differ & (depth_b >= depth_a)
            a[climb_a], b[climb_b] = self.parents[a[climb_a]], self.parents[b[climb_b]]
        return np.where(a >= 0, depths[a] + 1, 0).astype(np.int32)

    # ---- writing one -----------------------------------------------------------------------------------------------

    def to_csv(self) -> str:
        """Return the tree as CSV text with the columns `category_id,parent_id,name,is_leaf`."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["category_id", "parent_id", "name", "is_leaf"])
        leaves = set(self.leaf_nodes.tolist())
        # file order of the leaves decides `leaf_ids`, so they are written in it, behind the nodes above them
        inner = [i for i in range(len(self)) if i not in leaves]
        for i in [*inner, *self.leaf_nodes.tolist()]:
            parent = int(self.parents[i])
            writer.writerow(
                [self.node_ids[i], self.node_ids[parent] if parent >= 0 else "", self.names[i], int(i in leaves)]
            )
        return out.getvalue()
