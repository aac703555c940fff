"""The progress bar of a training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aitems_engine.errors import require_extra


@contextmanager
def bar(show: bool, title: str) -> Iterator[Callable[[int, int, float], None] | None]:
    """Show a progress bar over the batches of each epoch; yields the callback that moves it."""
    if not show:
        yield None
        return
    require_extra("train", "tqdm")
    from tqdm import tqdm

    with tqdm(desc=title, unit="batch", file=sys.stderr, mininterval=0.5) as line:
        mean = 0.0

        def on_step(epoch: int, batches: int, loss: float) -> None:
            nonlocal mean
            mean = loss if mean == 0 else 0.98 * mean + 0.02 * loss
            line.set_description(f"{title}: epoch {epoch}", refresh=False)
            line.set_postfix(loss=f"{mean:.3f}", refresh=False)
            line.update()

        yield on_step
