import numpy as np
from numpy.typing import NDArray

def fill_page(
    weights: NDArray[np.float64],
    items: NDArray[np.int32],
    scores: NDArray[np.float64],
    organic: NDArray[np.int32],
    ads: NDArray[np.int32],
    levels: NDArray[np.uint8],
    relax_levels: int,
    spacings: list[tuple[NDArray[np.int32], bool, list[int], int, int, int]],
    cold: tuple[NDArray[np.uint8], float, float, float] | None,
    ad_rules: tuple[int, int, float, float, float] | None,
    exploration: tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8], float, float, float, int] | None,
    pctr: NDArray[np.float32] | None,
    pcvr: NDArray[np.float32] | None,
    price: NDArray[np.float32] | None,
    bid: NDArray[np.float32] | None,
) -> tuple[
    NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32], float, float, float, int, float
]: ...
def falling_order(scores: NDArray[np.float64]) -> NDArray[np.int32]: ...
def relevance(scores: NDArray[np.float64], rows: NDArray[np.int32]) -> NDArray[np.float64]: ...
def put_first(rows: NDArray[np.int32], organic: NDArray[np.int32], size: int) -> NDArray[np.int32]: ...
def chances_to_be_best(means: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]: ...
def mmr(
    relevance: NDArray[np.float64],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int32],
    present: NDArray[np.uint8] | None,
    k: int,
    strength: float,
    missing_similarity: float,
    isa: str = "",
) -> NDArray[np.int32]: ...
def dpp(
    relevance: NDArray[np.float64],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int32],
    present: NDArray[np.uint8] | None,
    k: int,
    strength: float,
    missing_similarity: float,
    window: int,
    floor: float,
    isa: str = "",
) -> NDArray[np.int32]: ...
def calibrated(
    relevance: NDArray[np.float64],
    groups: NDArray[np.int32],
    target: NDArray[np.float64],
    k: int,
    strength: float,
) -> NDArray[np.int32]: ...
