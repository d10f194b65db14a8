"""The loop that a user would write: rasterio windows, a DataLoader, the same network, ``argmax``.

Each patch is a window read of its own from the tile's files; its class fills the cell of the stride's size
at the patch's middle (at stride 64: the patch itself).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window
from torch.utils.data import DataLoader, Dataset

from landuse.model.checkpoint import load_checkpoint, model_path
from landuse.model.normalize import bring_to_input, standardize

PATCH_PX, BATCH = 64, 64


class Windows(Dataset):
    """Every whole window of the tile, row by row."""

    def __init__(self, files: list[Path], stride_px: int) -> None:
        self.files, self.stride_px = files, stride_px
        with rasterio.open(files[0]) as source:
            self.rows = (source.height - PATCH_PX) // stride_px + 1
            self.cols = (source.width - PATCH_PX) // stride_px + 1
        self.opened: list[rasterio.DatasetReader] = []  # in the worker that reads

    def __len__(self) -> int:
        return self.rows * self.cols

    def __getitem__(self, index: int) -> torch.Tensor:
        if not self.opened:
            self.opened = [rasterio.open(file) for file in self.files]
        row, col = divmod(index, self.cols)
        window = Window(col * self.stride_px, row * self.stride_px, PATCH_PX, PATCH_PX)
        bands = [source.read(1, window=window) for source in self.opened]
        return torch.from_numpy(np.stack(bands).astype(np.float32))  # (band, patch, patch)


@torch.inference_mode()
def map_obviously(files: list[Path], model: str, level: str, stride_px: int, loaders: int, out: Path) -> int:
    """Write the classes of a tile to ``out``; returns how many patches that took."""
    network, contract = load_checkpoint(model_path(model))
    network.eval()
    windows = Windows(files, stride_px)
    found = []
    for dn in DataLoader(windows, batch_size=BATCH, num_workers=loaders):
        found.append(network(standardize(bring_to_input(dn, contract, level), contract)).argmax(1))
    classes = torch.cat(found).to(torch.uint8).numpy().reshape(windows.rows, windows.cols)
    with rasterio.open(files[0]) as source:
        inset = (PATCH_PX - stride_px) // 2
        transform = source.transform * Affine.translation(inset, inset) * Affine.scale(stride_px)
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "crs": source.crs, "transform": transform}
    with rasterio.open(out, "w", height=windows.rows, width=windows.cols, **profile) as target:
        target.write(classes, 1)
    return len(windows)
