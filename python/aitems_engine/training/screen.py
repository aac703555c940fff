"""The screen of a large head: two thin matrices that find the likely best leaves, so that the head scores only those.

With the covariance C of the features h, the rank-r matrix that is closest to the head W in E|W h - U D h|^2 is
U = W C^1/2 Q, D = Q' C^-1/2, Q the leading eigenvectors of C^1/2 W' W C^1/2 (principal components of the logits). The
rows of D h then have unit variance, which the native scorer's codes are laid out for (csrc/textcnn/model.hpp).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from aitems_engine.runtime import NativeScorer, ScorerInputs

# Below this many leaves the head is not where the time goes.
LEAVES_MIN = 1024
RANK = 128
# Added to the eigenvalues of the covariance, relative to the largest: features that never vary have no inverse.
RIDGE = 1e-6


def screen_tensors(
    tensors: Mapping[str, npt.NDArray[np.float32]], inputs: ScorerInputs
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors `screen.*` of a trained classifier; none where a screen would not pay.

    Parameters
    ----------
    tensors : mapping of str to float32 array
        The classifier's, as they are served.
    inputs : ScorerInputs
        Rows like those that will be scored; some thousands.
    """
    head = tensors["head.weight"].astype(np.float64)
    leaves, features = head.shape
    if leaves < LEAVES_MIN or features < 2 * RANK or "fc.weight" in tensors:
        return {}
    # the features are the logits of a head that changes nothing
    identity = {"head.weight": np.eye(features, dtype=np.float32), "head.bias": np.zeros(features, np.float32)}
    h = NativeScorer({**tensors, **identity}, mode="exact").logits(inputs).astype(np.float64)
    mean = h.mean(0)
    values, vectors = np.linalg.eigh(np.cov(h.T))
    values = np.maximum(values, 0) + RIDGE * values.max()
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    weighted = head @ root
    leading = np.linalg.eigh(weighted.T @ weighted)[1][:, : -RANK - 1 : -1]
    down = leading.T @ inverse
    found = {
        "screen.down.weight": down,
        "screen.down.bias": -down @ mean,
        "screen.up.weight": weighted @ leading,
        "screen.up.bias": head @ mean + tensors["head.bias"],
    }
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}
