"""Packs what was added and deleted: when, into how many lists, and whether the search is measured again.

The native side does the work without locks and carries over what is written meanwhile (csrc/ann/merge.hpp). Here is the
policy, and the thread.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine._native import ann as native
from aitems_engine.ann import tuning
from aitems_engine.errors import InvalidInputError

MERGE_AT_LEAST = 4096  # changed rows; fewer are searched exactly for about the price of one query
MERGE_SHARE = 0.1  # of the items: every item is packed about ten times while an index grows tenfold
GROWN = 2  # times as many items, or as few, as were there when the search was measured: choose lists and measure again
ROLLED = 0.25  # of the items added or deleted since then: measure again; half a catalogue rolled unmeasured cost .015


class Merger:
    """Merges one index, in the foreground or in a thread that ends when nothing is due.

    Notes
    -----
    `info` is the index's own and is updated. Knows nothing of `AnnIndex`, so that one that is dropped can be freed.
    """

    def __init__(
        self,
        core: native.Index,
        info: dict[str, Any],
        queries: NDArray[np.float32] | None = None,
        merge_at: int | str | None = "auto",
    ) -> None:
        numeric = isinstance(merge_at, int) and not isinstance(merge_at, bool) and merge_at >= 1
        if not (numeric or merge_at is None or merge_at == "auto"):
            raise InvalidInputError(f"merge_at must be 1 or more, None (never) or 'auto', got {merge_at!r}")
        self.core, self.info, self.queries, self.merge_at = core, info, queries, merge_at
        self._stopped = False
        self._forget_threads()
        _mergers.add(self)

    def _forget_threads(self) -> None:
        self._turn = threading.Lock()  # one merge at a time
        self._state = threading.Lock()  # guards what follows
        self._thread: threading.Thread | None = None
        self._running: native.Merge | None = None
        self._error: BaseException | None = None

    @property
    def threshold(self) -> int | None:
        """Changed rows from which on a merge starts by itself; None: never."""
        if self.merge_at is None or isinstance(self.merge_at, int):
            return self.merge_at
        return max(MERGE_AT_LEAST, int(self.core.stats()["items"] * MERGE_SHARE))

    def raise_error(self) -> None:
        """Raise what stopped the last merge of the thread, once."""
        with self._state:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def after_write(self) -> None:
        """Start the thread if a merge is due."""
        with self._state:
            if self._thread is None and self._due():
                self._thread = threading.Thread(target=self._work, name="aitems-ann-merge", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no thread to be had: the write is done, the next one tells
                    self._thread, self._error = None, error

    def stop(self, *, join: bool = True) -> None:
        """Give up a running merge and never start one again."""
        with self._state:
            self._stopped = True
            thread = self._thread
            if self._running is not None:
                self._running.cancel()
        if join and thread is not None and thread is not threading.current_thread():
            thread.join()

    def merge(self, threads: int) -> native.Index:
        """Pack all that was written before the call; waits for a merge that is running. Returns the packed items."""
        with self._turn:
            merge = self.core.begin_merge()
            with self._state:
                self._check_stopped()
                self._running = merge
            try:
                stats = self.core.stats()
                changed = self.info["changed_since"] + stats["added_rows"] + stats["deleted_rows"]
                lists, again = self._lists(merge.items, changed)
                asked = self.info["asked"]
                signs = tuning.choose_signs(stats["dim"], asked.get("signs"), lists)
                degree = tuning.choose_degree(
                    merge.items, stats["dim"], asked["kind"], asked.get("degree"), lists, signs=signs
                )
                if not again:
                    degree, signs = stats["degree"], stats["sign_bytes"] > 0
                if not merge.build(lists, degree, signs, threads):
                    self._check_stopped()
                found = self._measured(merge.built, lists, threads) if again else {}
                with _adopting:
                    self.core.adopt(merge)
                if again:
                    self.info.pop("measured", None)
                self.info.update({"changed_since": changed} | found)
                return merge.built
            finally:
                with self._state:
                    self._running = None

    def _due(self) -> bool:
        if self._stopped or self.merge_at is None:
            return False
        stats, threshold = self.core.stats(), self.threshold
        return threshold is not None and stats["added_rows"] + stats["deleted_rows"] >= threshold

    def _check_stopped(self) -> None:
        if self._stopped:
            raise InvalidInputError("the index is closed")

    def _work(self) -> None:
        while True:
            with self._state:
                if not self._due():
                    self._thread = None
                    return
            try:
                self.merge(1)
            except BaseException as error:
                with self._state:
                    self._thread = None
                    self._error = None if self._stopped else error
                return

    def _lists(self, items: int, changed: int) -> tuple[int, bool]:
        """Return the number of lists for `items` items and whether to measure: as before, unless much has changed."""
        stats, planned = self.core.stats(), self.info["planned_for"]
        asked = self.info["asked"]
        wanted, _ = tuning.choose_lists(items, stats["dim"], asked["kind"], asked["lists"], self.info["recall_target"])
        outgrown = items > GROWN * planned or items * GROWN < planned
        if outgrown or (wanted > 0 and stats["lists_asked"] == 0):
            return wanted, True
        return stats["lists_asked"], stats["lists_asked"] > 0 and changed > ROLLED * planned

    def _measured(self, built: native.Index, lists: int, threads: int) -> dict[str, Any]:
        asked, target, items = self.info["asked"], self.info["recall_target"], built.stats()["items"]
        if lists == 0:
            why = tuning.choose_lists(items, built.stats()["dim"], asked["kind"], asked["lists"], target)[1]
            return {"why": why, "planned_for": items, "changed_since": 0}
        queries = self.queries
        if queries is None:
            ids = built.live_ids()
            queries = built.vectors(ids[tuning.sample_rows(len(ids), 0)])[0]
        real = self.queries is not None
        tuned = tuning.tune(built, built, queries, target, real=real, threads=threads, step=self._check_stopped)
        tuned.apply(built)
        return {"why": tuned.note, "measured": tuned.measured, "planned_for": items, "changed_since": 0}


_mergers: weakref.WeakSet[Merger] = weakref.WeakSet()
_adopting = threading.Lock()  # held while a merge takes the native writer's lock; a fork waits for it


def _after_fork() -> None:
    """In the child no merge is running; the parent's threads and what they held are gone."""
    _adopting.release()
    for merger in list(_mergers):
        merger._forget_threads()


def _at_exit() -> None:
    """End threads while the interpreter can still be entered: later, their return from native code would abort."""
    for merger in list(_mergers):
        merger.stop()


os.register_at_fork(before=_adopting.acquire, after_in_parent=_adopting.release, after_in_child=_after_fork)
atexit.register(_at_exit)
