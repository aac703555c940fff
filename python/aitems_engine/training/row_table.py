"""Embedding tables of which a batch touches few rows: gradients and optimiser steps cost only the touched rows.

A dense Adam step over the 131,072 x 64 table of character n-grams moves 230 MB a batch, of which a batch of 256 titles
uses 5 %. Here a batch gathers its unique rows as a leaf tensor, autograd runs on those, and `step` writes them back.
The update is Adam on the touched rows only ("lazy" Adam): moments of rows that do not appear do not decay, so rare
n-grams keep the step size they earned (Kingma & Ba 2015; the row rule is that of tf.contrib LazyAdam).
"""

from __future__ import annotations

import torch


class RowTable(torch.nn.Module):
    """A (rows, width) float32 table with lazily updated Adam state.

    Parameters
    ----------
    weight : float32 tensor, shape (rows, width)
        Start values; owned from here on.
    row_scale : float32 tensor, shape (rows, 1), optional
        Factor of each row's start values and steps, as if the table were `row_scale` times a freely learnt one.
    beta1, beta2, epsilon : float
        As in Adam. Bias correction counts the steps of each row, not those of the run.
    """

    weight: torch.Tensor
    row_scale: torch.Tensor | None
    first_moment: torch.Tensor
    second_moment: torch.Tensor
    steps: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        *,
        row_scale: torch.Tensor | None = None,
        beta1: float = 0.9,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight if row_scale is None else weight * row_scale)
        self.register_buffer("row_scale", row_scale)
        self.register_buffer("first_moment", torch.zeros_like(weight))
        self.register_buffer("second_moment", torch.zeros_like(weight))
        self.register_buffer("steps", torch.zeros(len(weight), 1))
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._touched: tuple[torch.Tensor, torch.Tensor] | None = None

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the given unique rows (int64); in training they are a leaf that collects the gradient for `step`."""
        values = self.weight[rows]
        if self.training and torch.is_grad_enabled():
            values.requires_grad_()
            self._touched = (rows, values)
        return values

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the rows gathered since the last step from their gradient; does nothing where there is none."""
        if self._touched is None:
            return
        rows, values = self._touched
        self._touched = None
        gradient = values.grad
        if gradient is None:
            return
        steps = self.steps[rows] + 1
        first = self.first_moment[rows].lerp_(gradient, 1 - self.beta1)
        second = self.second_moment[rows].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        self.steps[rows] = steps
        self.first_moment[rows] = first
        self.second_moment[rows] = second
        step_size = learning_rate / (1 - self.beta1**steps)
        scale = second.div_(1 - self.beta2**steps).sqrt_().add_(self.epsilon)
        change = step_size * first / scale
        if self.row_scale is not None:
            change *= self.row_scale[rows]
        self.weight[rows] = values.detach() - change
