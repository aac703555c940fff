"""The little sparse algebra that serving needs, on NumPy alone (training has SciPy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.events import Interactions


@dataclass(frozen=True, eq=False)
class Csr:
    """A sparse matrix by rows: row r has ``values[splits[r]:splits[r + 1]]`` in ``columns`` of the same range."""

    splits: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    num_columns: int

    def __len__(self) -> int:
        return len(self.splits) - 1

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the row of each stored value."""
        return np.repeat(np.arange(len(self)), np.diff(self.splits))

    def transpose(self) -> Csr:
        """Return the matrix by columns."""
        order = np.argsort(self.columns, kind="stable")
        splits = np.zeros(self.num_columns + 1, np.int64)
        np.cumsum(np.bincount(self.columns, minlength=self.num_columns), out=splits[1:])
        return Csr(splits, self.rows()[order].astype(np.int32), self.values[order], len(self))


def history_matrix(histories: Interactions, decay: float = 1.0) -> Csr:
    """Return histories as a matrix (n, num_items).

    Parameters
    ----------
    histories : Interactions
    decay : float in (0, 1]
        The newest interaction counts 1, the one before `decay`, and so on; repeated items add up.
    """
    lengths = np.diff(histories.splits)
    age = np.repeat(histories.splits[1:] - 1, lengths) - np.arange(len(histories.items))
    return Csr(histories.splits, histories.items, np.power(decay, age).astype(np.float32), histories.num_items)


def product(a: Csr, b: Csr) -> npt.NDArray[np.float32]:
    """Return the dense product of two sparse matrices, float32 (len(a), b.num_columns); cost: one step a product."""
    cells, weights = _terms(a, b)
    return np.bincount(cells, weights, len(a) * b.num_columns).astype(np.float32).reshape(len(a), b.num_columns)


def _terms(a: Csr, b: Csr) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the cell and the value of each product of two stored values, in the order of `a`."""
    lengths = b.splits[a.columns + 1] - b.splits[a.columns]
    ends = np.cumsum(lengths)
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(b.splits[a.columns] - ends + lengths, lengths)
    weights = np.repeat(a.values, lengths) * b.values[index]
    return np.repeat(a.rows(), lengths) * b.num_columns + b.columns[index], weights


def row_sums(a: Csr, dense: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the product of a sparse and a dense matrix, float32 (len(a), dense.shape[1])."""
    out = np.zeros((len(a), dense.shape[1]), np.float32)
    for row in range(len(a)):
        begin, end = a.splits[row], a.splits[row + 1]
        if end > begin:
            out[row] = a.values[begin:end] @ dense[a.columns[begin:end]]
    return out


def from_dense(dense: npt.NDArray[np.float32]) -> Csr:
    """Return the values that are not 0."""
    rows, columns = np.nonzero(dense)
    splits = np.zeros(len(dense) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(dense)), out=splits[1:])
    return Csr(splits, columns.astype(np.int32), dense[rows, columns], dense.shape[1])
