"""How the parts of the classifier's network become one distribution, chosen on validation rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.training.calibration import MAX_CELLS, choose_prior_strength, fit_weights


@dataclass(frozen=True)
class Combination:
    """How the parts of the network become one distribution; all of it is folded into the served head.

    Attributes
    ----------
    parts : tuple of str
        "cnn", "bag", "mall", as far as there are.
    weights : float64 array, shape (parts,)
        Factor of each part's logits.
    prior : float
        Factor of the log prior of the leaves.
    """

    parts: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    prior: float

    def logits(self, parts: npt.NDArray[np.float32], log_prior: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the served logits of the logits of the parts, float64 (n, leaves)."""
        return np.asarray(np.tensordot(self.weights, parts, 1) + self.prior * log_prior)

    @property
    def temperature(self) -> float:
        """What the mean of the title's parts is divided by."""
        title = [w for name, w in zip(self.parts, self.weights, strict=True) if name != "mall"]
        return float(1 / max(1e-6, sum(title)))


def plain_combination(parts: tuple[str, ...], prior: float) -> Combination:
    """Return the combination that nothing was measured for: the mean over the title, plus the mall, plus the prior."""
    title = len(parts) - ("mall" in parts)
    weights = np.array([1.0 if name == "mall" else 1 / title for name in parts])
    return Combination(parts, weights, prior)


def combine(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    prior: npt.NDArray[np.float64],
    parts: tuple[str, ...],
    seed: int,
) -> Combination:
    """Return the weights of the parts and the prior with the highest likelihood on validation rows.

    The prior is then moved to where accuracy + macro-F1 are highest, and the common temperature fitted once more. At
    most `MAX_CELLS` logits of a part are looked at.
    """
    keep = max(1, MAX_CELLS // logits.shape[2])
    if len(labels) > keep:
        chosen = np.random.default_rng(seed).permutation(len(labels))[:keep]
        logits, labels = logits[:, chosen], labels[chosen]
    weights = fit_weights([*logits, prior], labels)
    total = np.tensordot(weights[:-1], logits, 1)
    strength = choose_prior_strength(total, labels, prior, float(weights[-1]))
    sharpness = float(fit_weights([total + strength * prior], labels)[0])
    return Combination(parts, sharpness * weights[:-1], sharpness * strength)
