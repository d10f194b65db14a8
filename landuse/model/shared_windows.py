"""Windows of a scene that share one pass of the network's convolutions.

``predict.Predictor.cell_probabilities`` cuts each patch out and computes all of it: at a stride of
8 px each pixel goes through the network 64 times. Here the convolutions run once over the scene.
What attention pools over a patch is pooled over moving windows (``networks.moving_mean``); the head
then reads each window's class evidence from the shared map, with the same weights and the same
softmax as for a patch. Two things differ, so a network has to be trained for both to agree
(``ModelContract.shared_features``): a patch ends in zeros at its edges where the scene goes on, and
a patch has one attention for all of its positions where here each position has its own, centred on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


def window_logits(
    evidence: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step_px: int,
    row_starts: Sequence[int],
    col_starts: Sequence[int],
    patch_px: int,
    weights: Tensor,
) -> Iterator[tuple[int, Tensor]]:
    """Logits of each cell of every window, one row of windows at a time.

    Where windows start between positions of the feature map (strides below ``position_px``), the
    convolutions run once for each offset that occurs.

    Args:
        evidence: (1, bands, H, W) input to (1, classes, h, w) class evidence, pooled over moving windows.
        x: (1, bands, H, W) network input.
        step_px: pixels from one position of the evidence to the next.
        row_starts: first pixel row of each row of windows, in any order; their patches lie inside ``x``.
        col_starts: first pixel column of each column of windows.
        patch_px: side of a window.
        weights: (cells, positions) how much each position of a patch says of each cell, along one axis.

    Yields:
        Index into ``row_starts``, and (classes, cells, windows, cells): class, cell row, window, cell column.
    """
    step, span = step_px, patch_px // step_px
    columns: dict[int, list[int]] = {}
    for index, start in enumerate(col_starts):
        columns.setdefault(start % step, []).append(index)
    for row_phase in sorted({start % step for start in row_starts}):
        maps = {phase: evidence(_from_offset(x, row_phase, phase, step))[0] for phase in columns}
        for index, start in enumerate(row_starts):
            if start % step != row_phase:
                continue
            top = start // step
            classes, cells = next(iter(maps.values())).shape[0], len(weights)
            logits = x.new_empty((classes, cells, len(col_starts), cells))
            for phase, members in columns.items():
                strip = torch.einsum("khw,ih->kiw", maps[phase][:, top : top + span], weights)
                lefts = torch.tensor([col_starts[member] // step for member in members], device=x.device)
                windows = strip.unfold(2, span, 1)[:, :, lefts]  # (classes, cells, members, positions)
                logits[:, :, members] = torch.einsum("kiqw,jw->kiqj", windows, weights)
            yield index, logits


def _from_offset(x: Tensor, row: int, col: int, step: int) -> Tensor:
    """The scene from the given offset on, cut to whole positions."""
    height, width = (
        (side - offset) // step * step for side, offset in zip(x.shape[2:], (row, col), strict=True)
    )
    return x[:, :, row : row + height, col : col + width].contiguous(memory_format=torch.channels_last)
