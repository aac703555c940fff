import numpy as np
from numpy.typing import NDArray

class Merge:
    @property
    def items(self) -> int: ...
    @property
    def built(self) -> Index: ...
    def build(self, lists: int, degree: int, signs: bool, threads: int) -> bool: ...
    def cancel(self) -> None: ...

class Index:
    @staticmethod
    def build(
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64],
        attributes: list[tuple[list[int], list[int], int]],
        metric: int,
        format: int,
        lists: int,
        iterations: int,
        seed: int,
        threads: int,
        degree: int = 0,
        signs: bool = False,
    ) -> Index: ...
    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        program: list[tuple[object, ...]] | None,
        probes: int,
        shortlist: int,
        threads: int,
        form: int,
        isa: str,
        beam: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], str]: ...
    def upsert(
        self, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: list[tuple[list[int], list[int], int]]
    ) -> int: ...
    def delete(self, ids: NDArray[np.int64]) -> int: ...
    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...
    def begin_merge(self) -> Merge: ...
    def adopt(self, merge: Merge) -> None: ...
    def save(self, path: str, notes: bytes) -> None: ...
    @staticmethod
    def open(path: str, verify: bool) -> tuple[Index, bytes]: ...
    def live_ids(self) -> NDArray[np.int64]: ...
    def stats(self) -> dict[str, int]: ...
    def graph(self) -> dict[str, NDArray[np.generic]]: ...
    def plan(
        self,
    ) -> tuple[list[tuple[int, int, int]], ...]: ...
    def set_plan(
        self,
        target: list[tuple[int, int, int]],
        filtered: list[tuple[int, int, int]],
        walk: list[tuple[int, int, int]] = ...,
        walk_filtered: list[tuple[int, int, int]] = ...,
        signs: list[tuple[int, int, int]] = ...,
        signs_filtered: list[tuple[int, int, int]] = ...,
    ) -> None: ...
