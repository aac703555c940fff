"""What next-item networks may be trained by: full cross entropy by chunks, sampled softmax with logQ, gBCE.

Slow twins: tests/reference/slow_sequences.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# Logits of so many positions exist at a time: they stay in the cache while they are used.
_CHUNK = 256
# Below it the logarithm ends: float32 has no smaller normal number.
_SHARE_MIN = torch.finfo(torch.float32).tiny


def full_cross_entropy(
    queries: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return the mean of -log softmax of each target among all items.

    Parameters
    ----------
    queries : float32 tensor, shape (n, dim)
    table : float32 tensor, shape (num_items, dim)
    targets : int64 tensor, shape (n,)
    dtype : torch.dtype
        Of the products; bfloat16 is faster where the processor multiplies it.

    Notes
    -----
    Gradients are made on the way forward, so the memory is that of one chunk, not of n x num_items.
    """
    loss: torch.Tensor = _FullCrossEntropy.apply(queries, table, targets, dtype)
    return loss


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        own, columns = queries.to(dtype), table.to(dtype)
        to_queries, to_table = -F.embedding(targets, table), torch.zeros_like(table)
        total = queries.new_zeros(())
        for start in range(0, len(queries), _CHUNK):
            rows = slice(start, start + _CHUNK)
            share = torch.softmax(own[rows] @ columns.T, 1)
            total -= share.gather(1, targets[rows, None]).float().clamp_(min=_SHARE_MIN).log_().sum()
            to_queries[rows] += share @ columns
            to_table += share.T @ own[rows]
        to_table.index_add_(0, targets, queries, alpha=-1)
        ctx.save_for_backward(to_queries, to_table)
        return total / len(queries)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        to_queries, to_table = ctx.saved_tensors
        factor = gradients[0] / len(to_queries)
        return to_queries * factor, to_table * factor, None, None


def gbce_loss(
    queries: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, calibration: float
) -> torch.Tensor:
    """Return the mean generalised binary cross entropy (Petrov & Macdonald, RecSys 2023) with shared negatives.

    Parameters
    ----------
    queries : float32 tensor, shape (n, dim)
    table : float32 tensor, shape (num_items, dim)
    targets : int64 tensor, shape (n,)
    negatives : int64 tensor, shape (m,)
        Drawn uniformly; where one is the target of a row, it is no negative of it.
    calibration : float from 0 to 1
        0 = plain binary cross entropy, overconfident with few negatives; 1 = probabilities as of all items.
    """
    share = len(negatives) / max(1, len(table) - 1)
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    positive = (queries * F.embedding(targets, table)).sum(1)
    against = (queries @ F.embedding(negatives, table).T).masked_fill(targets[:, None] == negatives, -torch.inf)
    return (power * F.softplus(-positive) + F.softplus(against).sum(1)).mean()


def sampled_softmax_loss(
    users: torch.Tensor,
    columns: torch.Tensor,
    own: torch.Tensor,
    hidden: torch.Tensor,
    draws: torch.Tensor,
    expected: torch.Tensor,
    *,
    temperature: float,
    logq: float = 1.0,
) -> torch.Tensor:
    """Return the loss of each row, float32 (n, T): -log softmax of its target among target and sampled columns.

    Parameters
    ----------
    users : float32 tensor, shape (n, T, dim)
    columns : float32 tensor, shape (C, dim)
        Vectors of the distinct sampled items.
    own : int64 tensor, shape (n, T)
        The target's column.
    hidden : bool tensor, shape (n, C)
        Columns that are no negatives of a user, the targets among them.
    draws, expected : float32 tensors, shape (C,)
        How often each column was drawn in this step, and how often it is on average.
    """
    users = users / temperature
    target = (users * F.embedding(own, columns)).sum(2)
    correction = (torch.log(draws) - logq * torch.log(expected)).expand(hidden.shape).masked_fill(hidden, -torch.inf)
    return F.softplus(_LogSumExp.apply(users @ columns.T, correction[:, None]) - target)


class _LogSumExp(torch.autograd.Function):
    """logsumexp(logits + correction) over the last axis, in the memory of `logits`: half the time of a step else."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, correction: torch.Tensor) -> torch.Tensor:
        highest = logits.add_(correction).amax(2, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        total = logits.sub_(highest).exp_().sum(2, keepdim=True)
        ctx.save_for_backward(logits, total)
        return (highest + torch.log(total))[:, :, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        powers, total = ctx.saved_tensors
        # a row without any column has no gradient
        share = gradients[0][:, :, None] / total.clamp(min=torch.finfo(total.dtype).tiny)
        return powers.mul_(share), None
