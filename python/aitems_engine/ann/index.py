"""The index users hold: checks arguments, makes one native call, returns frozen results."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine._native import ann as native
from aitems_engine.ann import file, tuning
from aitems_engine.ann.attributes import Attributes
from aitems_engine.ann.filters import Filter, Program, anything, denied, key_of
from aitems_engine.ann.ids import StringIds, are_strings, integer_ids
from aitems_engine.ann.merging import Merger
from aitems_engine.errors import IndexFormatError, InvalidInputError

METRICS = ("ip", "cosine", "l2")  # numbered as in csrc/ann/segment.hpp
RERANKS = ("float", "half")
K_MOST = 1 << 20
DENIED_MOST = 1000  # ids of a query's deny-list; with more, its own mask of rows costs less than so many more results
FORMS = ("auto", "single", "grouped", "exact", "graph", "signs")


@dataclass(frozen=True)
class AnnHits:
    """Results of a search, best first.

    Attributes
    ----------
    ids : int64 array, shape (num_queries, k); where the index has string ids, an object array of str
        -1 (None) where there are fewer than `k` items.
    scores : float32 array, shape (num_queries, k)
        Higher is better: the inner product, the cosine, or minus the squared distance. -inf beside a missing id.
    how : str
        "exact", "exact subset", "lists", "graph", "empty", or "mixed" where the filters of a batch were planned
        differently.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    how: str


class AnnIndex:
    """Nearest-neighbour index. Make one with `build` or `open`.

    Notes
    -----
    Searches are safe beside each other and beside writers (`upsert`, `delete`, `compact`; they take turns). Each search
    sees one state of the index, never half of a write. Ties: the lower id first (string ids: the one added first).

    Examples
    --------
    >>> import numpy as np
    >>> from aitems_engine.ann import AnnIndex, Filter
    >>> vectors = np.eye(4, dtype=np.float32)
    >>> index = AnnIndex.build(vectors, ids=[10, 11, 12, 13], attributes={"mall": ["a", "a", "b", "b"]})
    >>> index.search(vectors[:1], k=2).ids.tolist()
    [[10, 11]]
    >>> index.search(vectors[:1], k=1, filter=Filter.eq("mall", "b")).ids.tolist()
    [[12]]
    """

    def __init__(
        self,
        core: native.Index,
        strings: StringIds | None,
        attributes: Attributes,
        info: dict[str, Any],
        queries: NDArray[np.float32] | None = None,
        merge_at: int | str | None = "auto",
    ) -> None:
        self._core: native.Index | None = core
        self._strings = strings
        self._attributes = attributes
        self._info = info
        info.setdefault("asked", {"kind": "auto", "lists": None})  # missing in files of before it was kept
        info.setdefault("planned_for", core.stats()["items"])
        info.setdefault("changed_since", 0)
        info.setdefault("tag", "")
        self._merger: Merger | None = Merger(core, info, queries, merge_at)
        self._finalizer = weakref.finalize(self, self._merger.stop, join=False)
        self._finalizer.atexit = False  # the merger has its own

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        ids: Sequence[int] | Sequence[str] | NDArray[Any] | None = None,
        metric: str = "ip",
        recall_target: float = 0.95,
        attributes: Mapping[str, Sequence[object]] | None = None,
        *,
        queries: NDArray[np.float32] | None = None,
        kind: str = "auto",
        lists: int | None = None,
        degree: int | None = None,
        signs: bool | None = None,
        rerank: str = "float",
        iterations: int = 10,
        seed: int = 0,
        threads: int = 1,
        merge_at: int | str | None = "auto",
        tag: str = "",
    ) -> AnnIndex:
        """Build an index, choosing how to search by measuring on a sample.

        Parameters
        ----------
        vectors : float32 array, shape (n, dim)
            Finite, norm at most 1e18. n may be 0.
        ids : n distinct int64 >= 0, or n distinct strings
            Default 0 .. n - 1.
        metric : "ip", "cosine" or "l2"
            Score: inner product; cosine (0 for a zero vector); minus the squared Euclidean distance.
        recall_target : float in (0, 1]
            Share of the true results that a search without a filter should find. 1 builds an exact index.
        attributes : {name: n entries}
            An entry is a str, int or bool, a list of them, or None. For `Filter`.
        queries : float32 array, shape (m, dim)
            Real queries to measure with. Without, items are used, and the target is moved towards 1.
        kind : "auto", "exact", "ivf" or "graph"
            "ivf" scans 8-bit codes in inverted lists and scores the best candidates again from their vectors. "graph"
            has the same lists, and beside them a graph for single queries ("auto": where they would otherwise choose
            from more than 6.4 MB of codes or signs).
        lists : int
            Number of inverted lists ("ivf", "graph"). Default: about sqrt(n).
        degree : int, 2 to 256
            Out-neighbours of an item in the graph. Default 32.
        signs : bool
            Whether single queries first look at one bit of each dimension ("ivf", "graph"; up to 2,048 dimensions).
            Default: from 128 dimensions on; taken where measuring shows that it is cheaper.
        rerank : "float" or "half"
            What candidates are scored from: float32 (scores are exact), or half precision (half the memory; scores
            are those of the rounded vectors).
        iterations, seed : int
            Of k-means.
        threads : int
            0 = all cores.
        merge_at : int, None or "auto"
            From how many added and deleted items on a merge starts in the background (see `compact`). None: never;
            "auto": a tenth of the items, at least 4,096.
        tag : str
            What the vectors belong to, for example the digest of a model; kept in the file and told by `describe`.

        Raises
        ------
        InvalidInputError
            Wrong dtype or shape, NaN or infinity, ids that repeat, do not fit or are negative, unknown metric or kind.

        Notes
        -----
        The same arguments give the same index, for any number of threads. Cost but for "exact": O(n * sqrt(n) * dim).
        """
        if metric not in METRICS:
            raise InvalidInputError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if kind not in ("auto", "exact", "ivf", "graph"):
            raise InvalidInputError(f"kind must be auto, exact, ivf or graph, got {kind!r}")
        if rerank not in RERANKS:
            raise InvalidInputError(f"rerank must be float or half, got {rerank!r}")
        if not 0 < recall_target <= 1:
            raise InvalidInputError(f"recall_target must be above 0 and at most 1, got {recall_target}")
        if lists is not None and not 1 <= lists <= 1 << 20:
            raise InvalidInputError(f"lists must be 1 to {1 << 20}, got {lists}")
        if lists is not None and kind == "exact":
            raise InvalidInputError("an exact index has no lists; leave lists out or use kind='ivf'")
        if degree is not None and not 2 <= degree <= 256:
            raise InvalidInputError(f"degree must be 2 to 256, got {degree}")
        if degree is not None and kind != "graph":
            raise InvalidInputError(f"only a graph has a degree; leave it out or use kind='graph', not {kind!r}")
        if signs and kind == "exact":
            raise InvalidInputError("an exact index has no signs; leave them out or use kind='ivf'")
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
            given = f"shape {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
            raise InvalidInputError(f"vectors must be a float32 array of shape (n, dim), got {given}")
        if signs and vectors.shape[1] > tuning.SIGN_DIMS[1]:
            raise InvalidInputError(
                f"signs are for at most {tuning.SIGN_DIMS[1]} dimensions, got {vectors.shape[1]}; leave them out"
            )
        count = len(vectors)
        strings: StringIds | None = None
        if ids is None:
            keys = np.arange(count, dtype=np.int64)
        elif are_strings(ids):
            strings = StringIds()
            keys = strings.keys(ids, add=True)
        else:
            keys = integer_ids(ids)
        if strings is not None and len(strings.strings) != len(keys):
            raise InvalidInputError("ids must be distinct; a string is given twice")
        held = Attributes(list(attributes or {}), [[] for _ in attributes or {}])
        columns = held.columns(attributes, count) if attributes else []

        wanted_lists, why = tuning.choose_lists(count, vectors.shape[1], kind, lists, recall_target)

        with_signs = tuning.choose_signs(vectors.shape[1], signs, wanted_lists)
        wanted_degree = tuning.choose_degree(count, vectors.shape[1], kind, degree, wanted_lists, signs=with_signs)
        number = METRICS.index(metric), RERANKS.index(rerank)
        core = native.Index.build(
            vectors,
            keys,
            columns,
            *number,
            wanted_lists,
            iterations,
            seed,
            threads,
            wanted_degree,
            with_signs,
        )
        info: dict[str, Any] = {"recall_target": recall_target}
        info["asked"] = {"kind": kind, "lists": lists, "degree": degree, "signs": signs}
        info |= {"planned_for": count, "why": why, "tag": tag}
        sample = None if queries is None else np.ascontiguousarray(queries[: tuning.SAMPLE_QUERIES])
        if wanted_lists:
            asked = vectors[tuning.sample_rows(count, seed)] if sample is None else sample
            exact = core  # its vectors are the truth, unless they were rounded
            if rerank != "float":
                exact = native.Index.build(vectors, keys, [], METRICS.index(metric), 0, 0, 1, 0, threads)
            tuned = tuning.tune(core, exact, asked, recall_target, real=sample is not None, threads=threads)
            tuned.apply(core)
            info["why"] = tuned.note
            info["measured"] = tuned.measured
        return cls(core, strings, held, info, sample, merge_at)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self._open().stats()["dim"]

    @property
    def ids(self) -> NDArray[Any]:
        """Ids of the items now in the index: int64 ascending, or strings in the order of adding."""
        keys = self._open().live_ids()
        return keys if self._strings is None else self._strings.names(keys)

    def __len__(self) -> int:
        return self._open().stats()["items"]

    def contains(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these ids an index with integer ids holds, bool (n,); cost: one look-up each."""
        if self._strings is not None:
            raise InvalidInputError("this index has string ids; ask for each with `id in index`")
        return self._open().vectors(np.ascontiguousarray(ids, np.int64))[1]

    def __contains__(self, id: object) -> bool:
        return bool(self._open().vectors(self._keys([id], add=False))[1].any())

    def vectors(self, ids: Sequence[int] | Sequence[str] | NDArray[Any]) -> NDArray[np.float32]:
        """Return the vectors of items as they are stored: for cosine divided by their norms, for "half" rounded.

        Raises
        ------
        InvalidInputError
            An id is not in the index.
        """
        core, given = self._open(), list(ids)
        keys = self._keys(given, add=False)
        rows, found = core.vectors(keys)
        if len(keys) < len(given) or not found.all():
            missing = [i for i in given if i not in self]
            raise InvalidInputError(f"{len(missing)} of the ids are not in the index, the first is {missing[0]!r}")
        return rows

    def search(
        self,
        queries: NDArray[np.float32],
        k: int = 10,
        filter: Filter | Sequence[Filter | None] | None = None,
        threads: int = 1,
        *,
        probes: int | None = None,
        shortlist: int | None = None,
        beam: int | None = None,
        form: str = "auto",
    ) -> AnnHits:
        """Return the `k` nearest items of each query, best first.

        Parameters
        ----------
        queries : float32 array, shape (num_queries, dim)
            A zero query is allowed: every inner product and cosine is then 0.
        k : int, 1 to 2**20
            Where fewer than `k` items exist (or pass the filter), the rest is id -1, score -inf.
        filter : Filter, or one Filter or None a query
            Only items that pass are returned. In a batch, queries with equal filters are searched together, and so are
            those that deny up to 1,000 ids each (``~Filter.ids(...)``, what a user has seen).
        threads : int
            0 = all cores. A single query uses one.
        probes, shortlist : int
            Lists to look into and candidates to score exactly, instead of what `build` chose ("ivf", "graph").
        beam : int
            Rows a walk on the graph holds, instead of what `build` chose ("graph" only): more find more.
        form : "auto", "single", "grouped", "exact", "graph" or "signs"
            Whether each query scans its lists alone, or the queries of a batch that probe a list scan it together (the
            results are the same), or all items are scored exactly, to compare with, or each query walks on the graph,
            or looks at the signs of its lists.

        Returns
        -------
        AnnHits

        Raises
        ------
        InvalidInputError
            Wrong dtype or shape, NaN or infinity, `k` out of range, a filter on an unknown attribute, a closed index.

        Notes
        -----
        Ties: lower id first. Releases the GIL. Safe beside other searches and beside writers. With a filter the plan is
        an exact scan of the items that pass, a masked scan of the lists that goes on until `k` are found, or (where
        half of the items pass) a walk; the cheapest is taken, and recall is aimed at .99 whatever the recall target.
        """
        core = self._open()
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool):
            raise InvalidInputError(f"k must be an integer, got {type(k).__name__}")
        if form not in FORMS:
            raise InvalidInputError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        for name, value in (("probes", probes), ("shortlist", shortlist), ("beam", beam)):
            if value is not None and value < 1:
                raise InvalidInputError(f"{name} must be 1 or more, got {value}")
        if beam is not None and core.stats()["degree"] == 0:
            raise InvalidInputError("this index has no graph to walk on with a beam; build it with kind='graph'")
        rest = (probes or 0, shortlist or 0, threads, FORMS.index(form), "", beam or 0)
        if filter is None or isinstance(filter, Filter):
            program = None if filter is None else self._program(filter)
            ids, scores, how = core.search(queries, int(k), program, *rest)
        else:
            ids, scores, how = self._search_each(core, queries, int(k), list(filter), rest)
        return AnnHits(ids if self._strings is None else self._strings.names(ids), scores, how)

    def upsert(
        self,
        ids: Sequence[int] | Sequence[str] | NDArray[Any],
        vectors: NDArray[np.float32],
        attributes: Mapping[str, Sequence[object]] | None = None,
    ) -> int:
        """Add items, replacing those whose id is there already; returns how many were replaced.

        Parameters
        ----------
        ids : n distinct ids, of the kind the index has
        vectors : float32 array, shape (n, dim)
        attributes : {name: n entries}
            All attributes of the index. Without, a replaced item keeps its values and a new one has none.

        Notes
        -----
        All of the call becomes visible at once. Added items are searched exactly until a merge packs them: `compact`,
        or the one that starts in the background once `merge_at` is reached. An error of that one is raised here, before
        anything is written, and once; write again to go on.
        """
        merger = self._writer()
        columns = self._attributes.columns(attributes, len(vectors)) if attributes is not None else []
        replaced = merger.core.upsert(self._keys(ids, add=True), vectors, columns)
        merger.after_write()
        return replaced

    def delete(self, ids: Sequence[int] | Sequence[str] | NDArray[Any]) -> int:
        """Remove items; returns how many of the ids were there. Unknown ids are no error."""
        merger = self._writer()
        deleted = merger.core.delete(self._keys(ids, add=False))
        merger.after_write()
        return deleted

    def compact(self, threads: int = 1) -> None:
        """Pack what was added and drop what was deleted before the call, waiting for a merge in the background.

        Notes
        -----
        Searches and writes go on beside it; what is written meanwhile is carried over. Builds the lists anew. Their
        number stays, unless the index has more than twice or less than half the items it was chosen for, or has become
        large enough for lists. What `build` measured stays until a quarter of the items were added or deleted, and is
        measured again then. Memory rises to about three times the index meanwhile. Does nothing if nothing changed.
        """
        self._writer().merge(threads)

    def save(self, path: str | Path) -> None:
        """Write the index into one file, replacing what was there only when the new file is complete.

        Raises
        ------
        OSError
            The file cannot be written; the previous file is as it was.

        Notes
        -----
        Packs like `compact` first. Beside a writer, the file holds the items of one moment of the call. Format:
        csrc/ann/index_file.hpp, version 4.
        """
        packed = self._writer().merge(1)
        file.save(packed, Path(path), self._strings, self._attributes, self._info)

    @classmethod
    def open(
        cls, path: str | Path, *, dim: int | None = None, verify: bool = True, merge_at: int | str | None = "auto"
    ) -> AnnIndex:
        """Open a saved index; the file is mapped into memory, not read.

        Parameters
        ----------
        path : path of a file written by `save`
        dim : int
            The dimension the caller's queries have, checked against the file.
        verify : bool
            Check the checksum of every section, which reads the file once. Without, only its structure is checked: a
            damaged vector then gives a wrong score, never a crash.
        merge_at : int, None or "auto"
            As of `build`.

        Raises
        ------
        IndexFormatError
            Damaged, cut short, another version, another dimension.

        Notes
        -----
        The file may be replaced by `save` while it is open, but must not be changed in place.
        """
        core, strings, attributes, info = file.open(Path(path), verify=verify)
        if dim is not None and core.stats()["dim"] != dim:
            raise IndexFormatError(f"{path} holds vectors of dimension {core.stats()['dim']}, expected {dim}")
        return cls(core, strings, attributes, info, merge_at=merge_at)

    def describe(self) -> dict[str, Any]:
        """Return what the index is, what was chosen and why, and its memory in bytes."""
        stats = self._open().stats()
        target, filtered, walk, walk_filtered, signs, signs_filtered = self._open().plan()
        keys, walk_keys = ("k", "probes", "shortlist"), ("k", "beam", "shortlist")
        graph = {
            "degree": stats["degree"],
            "bytes": stats["graph_bytes"],
            "unreachable_before_repair": stats["linked"],
            "unreachable": stats["unreachable"],
            "plan": [dict(zip(walk_keys, effort, strict=True)) for effort in walk],
            "plan_filtered": [dict(zip(walk_keys, effort, strict=True)) for effort in walk_filtered],
        }
        sign_plans = {
            "bytes": stats["sign_bytes"],
            "plan": [dict(zip(keys, effort, strict=True)) for effort in signs],
            "plan_filtered": [dict(zip(keys, effort, strict=True)) for effort in signs_filtered],
        }
        return {
            "kind": "graph" if stats["degree"] else "ivf" if stats["lists"] else "exact",
            "metric": METRICS[stats["metric"]],
            "rerank": RERANKS[stats["format"]],
            "items": stats["items"],
            "dim": stats["dim"],
            "lists": stats["lists"],
            "added": stats["added_rows"],
            "deleted": stats["deleted_rows"],
            "merge_at": None if self._merger is None else self._merger.threshold,
            "memory_bytes": stats["bytes"],
            "ids": "int64" if self._strings is None else "str",
            "attributes": {n: len(v) for n, v in zip(self._attributes.names, self._attributes.values, strict=True)},
            "plan": [dict(zip(keys, effort, strict=True)) for effort in target],
            "plan_filtered": [dict(zip(keys, effort, strict=True)) for effort in filtered],
            **({"signs": sign_plans} if stats["sign_bytes"] else {}),
            **({"graph": graph} if stats["degree"] else {}),
            **self._info,
        }

    def close(self) -> None:
        """Let go of memory and file; every later call is an error. Running searches finish, a merge is given up."""
        merger, self._core, self._merger = self._merger, None, None
        if merger is not None:
            self._finalizer.detach()
            merger.stop()

    def __enter__(self) -> AnnIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> native.Index:
        if self._core is None:
            raise InvalidInputError("the index is closed")
        return self._core

    def _writer(self) -> Merger:
        self._open()
        merger = self._merger
        if merger is None:
            raise InvalidInputError("the index is closed")
        merger.raise_error()
        return merger

    def _keys(self, ids: object, *, add: bool) -> NDArray[np.int64]:
        if self._strings is not None:
            return self._strings.keys(ids, add=add)
        return integer_ids(ids)

    def _program(self, filter: Filter) -> list[tuple[object, ...]]:
        return filter.program(
            self._attributes.encode, lambda ids: self._keys(list(ids), add=False), string_ids=self._strings is not None
        )

    def _search_each(
        self,
        core: native.Index,
        queries: NDArray[np.float32],
        k: int,
        filters: list[Filter | None],
        rest: tuple[int, int, int, int, str, int],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
        """Search with one filter a query; queries whose filters do the same, or deny few ids each, go together."""
        if not isinstance(queries, np.ndarray) or len(queries) != len(filters):
            raise InvalidInputError(
                f"one filter a query is needed, got {len(filters)} filters for {len(queries)} queries"
            )
        programs: dict[int, Program | None] = {}
        keys: dict[int, object] = {}
        denies: dict[int, NDArray[np.int64]] = {}
        groups: dict[object, list[int]] = {}
        for row, f in enumerate(filters):
            if f is not None and not isinstance(f, Filter):
                raise InvalidInputError(f"filter must hold Filter or None, got {type(f).__name__}")
            if id(f) not in keys:
                program = programs[id(f)] = None if f is None else self._program(f)
                few = None if program is None else denied(program)
                if few is not None and len(few) <= min(DENIED_MOST, K_MOST - k):
                    keys[id(f)], denies[id(f)] = "few", few
                else:
                    keys[id(f)] = None if program is None else key_of(program)
            groups.setdefault(keys[id(f)], []).append(row)
        ids = np.full((len(filters), max(k, 0)), -1, np.int64)
        scores = np.full(ids.shape, -np.inf, np.float32)
        hows = set()
        for key, rows in groups.items():
            if key == "few":
                found = _search_denied(core, queries[rows], k, [denies[id(filters[row])] for row in rows], rest)
            else:
                found = core.search(queries[rows], k, programs[id(filters[rows[0]])], *rest)
            ids[rows], scores[rows] = found[0], found[1]
            hows.add(found[2])
        return ids, scores, hows.pop() if len(hows) == 1 else "mixed" if hows else "empty"


def _search_denied(
    core: native.Index,
    queries: NDArray[np.float32],
    k: int,
    lists: list[NDArray[np.int64]],
    rest: tuple[int, int, int, int, str, int],
) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
    """Search all queries together for as many more results as any of them denies, then leave the denied ones out."""
    more = k + max(map(len, lists)) if k > 0 else k
    ids, scores, how = core.search(queries, more, anything(), *rest)
    taken = np.stack([np.isin(row, few) for row, few in zip(ids, lists, strict=True)])
    order = np.argsort(taken, axis=1, kind="stable")[:, :k]  # the denied ones go to the end
    ids[taken], scores[taken] = -1, -np.inf
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1), how
