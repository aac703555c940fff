"""Ranking networks over one feature layer: DeepFM, DLRM, DCN-v2 and ESMM.

DeepFM: Guo et al. 2017. DLRM: Naumov et al. 2019. DCN-v2: Wang et al. 2021. ESMM: Ma et al. 2018. All take codes (n, F)
and dense columns (n, D) and return logits (n, T). They do not know what a feature means, and nothing of training but
dropout. Slow twins are in tests/reference/rankers.py.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from aitems_engine.errors import InvalidInputError
from aitems_engine.ranking import FieldSpec
from aitems_engine.training.row_table import RowTable


@dataclass(frozen=True)
class RankerShape:
    """Sizes of a network.

    Attributes
    ----------
    name : str
        One of `RANKERS`.
    dim : int
        Of the vector of each code.
    hidden : tuple of int
        Layers of the deep part, of DLRM's top part and of each of ESMM's two towers.
    bottom : tuple of int
        DLRM: layers over the dense columns, before the one of `dim`.
    cross_layers, cross_rank : int
        DCN-v2: number of cross layers, and the rank of their matrices; 0 = full.
    dropout : float
        After each hidden layer.
    """

    name: str = "dcn-v2"
    dim: int = 16
    hidden: tuple[int, ...] = (128, 64)
    bottom: tuple[int, ...] = (64,)
    cross_layers: int = 2
    cross_rank: int = 0
    dropout: float = 0.0


class FeatureLayer(torch.nn.Module):
    """Codes (n, F) -> vectors (n, F, width): the rows of all fields in one table, gathered once.

    Vectors start near zero, so that a code that was never seen says next to nothing.
    """

    offsets: torch.Tensor

    def __init__(self, fields: FieldSpec, width: int, start: float = 0.01) -> None:
        super().__init__()
        sizes = fields.cardinalities
        self.register_buffer("offsets", torch.tensor([0, *itertools.accumulate(sizes)][:-1], dtype=torch.int64))
        self.table = RowTable(torch.randn(sum(sizes), width) * start)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        rows = codes + self.offsets
        if not self.training:
            return self.table.weight[rows]
        unique, inverse = torch.unique(rows, return_inverse=True)
        return F.embedding(inverse, self.table.gather(unique))


class Layers(torch.nn.Sequential):
    """Linear, relu and dropout for each size; a last linear layer without relu where `out` is positive."""

    def __init__(self, width: int, sizes: tuple[int, ...], dropout: float = 0.0, out: int = 0) -> None:
        parts: list[torch.nn.Module] = []
        for size in sizes:
            parts += [torch.nn.Linear(width, size), torch.nn.ReLU(), torch.nn.Dropout(dropout)]
            width = size
        super().__init__(*parts, *([torch.nn.Linear(width, out)] if out else []))

    def linears(self) -> list[torch.nn.Linear]:
        """Return the linear layers in order."""
        return [layer for layer in self if isinstance(layer, torch.nn.Linear)]


class RankingNetwork(torch.nn.Module):
    """What the four networks share."""

    targets: tuple[str, ...] = ("ctr",)

    def __init__(self, fields: FieldSpec, shape: RankerShape, width: int = 0) -> None:
        super().__init__()
        self.fields, self.shape = fields, shape
        self.features = FeatureLayer(fields, width or shape.dim)
        self.flat_width = len(fields.cardinalities) * shape.dim + fields.dense

    def tables(self) -> list[RowTable]:
        """Return the tables that `RowTable.step` updates; all other weights are ordinary parameters."""
        return [self.features.table]

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the vector of each code, float32 (n, F, width)."""
        vectors: torch.Tensor = self.features(codes)
        return vectors

    def forward(self, codes: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (n, len(targets)) of int codes (n, F) and float32 dense columns (n, D)."""
        return self.head(self.vectors(codes), dense)

    def head(self, vectors: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Return the logits by the vectors of the codes."""
        raise NotImplementedError


class DeepFM(RankingNetwork):
    """First-order term + factorisation machine + deep part, the last two over the same vectors.

    The first-order weight of a code is the last column of its row in the table.
    """

    def __init__(self, fields: FieldSpec, shape: RankerShape) -> None:
        super().__init__(fields, shape, shape.dim + 1)
        self.deep = Layers(self.flat_width, shape.hidden, shape.dropout, out=1)
        self.first_order = torch.nn.Linear(fields.dense, 1, bias=False) if fields.dense else None

    def head(self, vectors: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        vectors, weights = vectors[..., :-1], vectors[..., -1]
        # sum over pairs of dot products, in O(F * dim)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)
        logits: torch.Tensor = self.deep(torch.cat([vectors.flatten(1), dense], 1))
        logits = logits + pairs + weights.sum(1, keepdim=True)
        return logits if self.first_order is None else logits + self.first_order(dense)


class DLRM(RankingNetwork):
    """Dot products of all pairs of vectors, one of which comes from the dense columns, into the top part."""

    def __init__(self, fields: FieldSpec, shape: RankerShape) -> None:
        super().__init__(fields, shape)
        self.bottom = Layers(fields.dense, (*shape.bottom, shape.dim)) if fields.dense else None
        count = len(fields.cardinalities) + bool(fields.dense)
        pairs = count * (count - 1) // 2
        self.top = Layers((shape.dim if fields.dense else 0) + pairs, shape.hidden, shape.dropout, out=1)
        self.register_buffer("lower", torch.tril_indices(count, count, -1), persistent=False)

    lower: torch.Tensor

    def head(self, vectors: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        first = [] if self.bottom is None else [self.bottom(dense)]
        vectors = torch.cat([*(x[:, None] for x in first), vectors], 1)
        products = vectors @ vectors.transpose(1, 2)
        logits: torch.Tensor = self.top(torch.cat([*first, products[:, self.lower[0], self.lower[1]]], 1))
        return logits


class CrossLayer(torch.nn.Module):
    """``x0 * (W x + b) + x``, where W may be of low rank."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.reduce = torch.nn.Linear(width, rank, bias=False) if rank else None
        self.expand = torch.nn.Linear(rank or width, width)

    def forward(self, start: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.expand(x if self.reduce is None else self.reduce(x))
        return start * inner + x


class DCNv2(RankingNetwork):
    """Cross layers beside a deep part (the paper's parallel structure)."""

    def __init__(self, fields: FieldSpec, shape: RankerShape) -> None:
        super().__init__(fields, shape)
        self.cross = torch.nn.ModuleList(
            CrossLayer(self.flat_width, shape.cross_rank) for _ in range(shape.cross_layers)
        )
        self.deep = Layers(self.flat_width, shape.hidden, shape.dropout)
        self.output = torch.nn.Linear(self.flat_width + (shape.hidden[-1] if shape.hidden else self.flat_width), 1)

    def head(self, vectors: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        start = torch.cat([vectors.flatten(1), dense], 1)
        x = start
        for layer in self.cross:
            x = layer(start, x)
        logits: torch.Tensor = self.output(torch.cat([x, self.deep(start)], 1))
        return logits


class ESMM(RankingNetwork):
    """A tower for the click and one for the purchase given a click, over shared vectors.

    The second is never trained by itself: only its product with the first is compared with purchases, over all
    impressions, so that it holds where nobody clicked as well.
    """

    targets = ("ctr", "cvr")

    def __init__(self, fields: FieldSpec, shape: RankerShape) -> None:
        super().__init__(fields, shape)
        self.ctr = Layers(self.flat_width, shape.hidden, shape.dropout, out=1)
        self.cvr = Layers(self.flat_width, shape.hidden, shape.dropout, out=1)

    def head(self, vectors: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        flat = torch.cat([vectors.flatten(1), dense], 1)
        return torch.cat([self.ctr(flat), self.cvr(flat)], 1)


RANKERS: dict[str, type[DeepFM] | type[DLRM] | type[DCNv2] | type[ESMM]] = {
    "deepfm": DeepFM,
    "dlrm": DLRM,
    "dcn-v2": DCNv2,
    "esmm": ESMM,
}


def make_ranker(fields: FieldSpec, shape: RankerShape) -> RankingNetwork:
    """Return a network with random weights.

    Raises
    ------
    InvalidInputError
        An unknown name, a size below its minimum, or no field at all.
    """
    if shape.name not in RANKERS:
        raise InvalidInputError(f"the ranker must be one of {', '.join(RANKERS)}, got '{shape.name}'")
    if not fields.cardinalities or min(fields.cardinalities) < 1 or fields.dense < 0:
        raise InvalidInputError(
            f"there must be at least one field of codes, each of at least one code, got {fields.cardinalities}"
        )
    if min(shape.dim, *shape.hidden, *shape.bottom) < 1 or min(shape.cross_layers, shape.cross_rank) < 0:
        raise InvalidInputError(f"layers and vectors must be at least 1 wide, cross layers not negative, got {shape}")
    if not 0 <= shape.dropout < 1:
        raise InvalidInputError(f"dropout must be from 0 and below 1, got {shape.dropout}")
    return RANKERS[shape.name](fields, shape)
