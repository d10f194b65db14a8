"""The attention CNNs, whole, in one file.

``balanced`` is the 12-layer network of Vir, "Balanced Multi-Task Attention for Satellite Image
Classification" (arXiv 2510.15527); ``balanced-fast`` keeps its attention and spends the
arithmetic where it pays: a pixel-unshuffle stem, two residual blocks a stage and attention in the
last block of each stage only.

Every network maps ``(B, bands, H, W)`` float input to ``(B, classes)`` logits. The steps are
separate methods, because the map engine needs them apart: ``features`` gives the last feature map,
``evidence`` the class evidence at each of its positions (the linear head before pooling), and
``forward`` pools that evidence over the patch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_BLOCKS = 256
"""Residual blocks that a network may have; the deepest here has 11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """What decides a network's layers, and so which weights fit it."""

    name: str
    """Name in ``NETWORKS``, for messages and model cards."""
    bands: int
    """Input bands."""
    classes: int
    """Output classes."""
    unshuffle: int
    """Stem: space-to-depth factor before the first convolution; 1 = none."""
    widths: tuple[int, ...]
    """Channels of each stage; the first stage keeps the stem's resolution, each later one halves it."""
    depths: tuple[int, ...]
    """Residual blocks in each stage."""
    attention: str
    """Where the balanced attention sits: ``"every"`` block or the ``"last"`` of each stage."""
    dropblock: tuple[float, ...]
    """Drop probability of each stage, at the end of its ramp."""
    dropblock_size: int = 7
    """Side of a dropped square, in positions of the feature map."""
    dropout: float = 0.0
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.dropblock):
            raise ValueError(
                f"widths {self.widths}, depths {self.depths} and dropblock {self.dropblock} "
                "must name the same number of stages"
            )
        if self.attention not in ("every", "last"):
            raise ValueError(f"attention is {self.attention!r}; use 'every' or 'last'")
        if self.bands < 1 or self.classes < 2:
            raise ValueError(f"bands={self.bands}, classes={self.classes}: need >= 1 and >= 2")
        # A config read from a file must not make this process build for ever.
        if not 1 <= sum(self.depths) <= MAX_BLOCKS or min(*self.depths, *self.widths, self.unshuffle) < 1:
            raise ValueError(
                f"depths {self.depths}, widths {self.widths} and unshuffle {self.unshuffle} must be >= 1 "
                f"and make at most {MAX_BLOCKS} blocks"
            )

    def to_dict(self) -> dict[str, object]:
        """The config as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Self:
        """The inverse of ``to_dict``; lists become tuples.

        Raises:
            TypeError: it is no object, or a key is missing or unknown.
            ValueError: a value is out of range.
        """
        if not isinstance(values, dict):
            raise TypeError(f"it is a {type(values).__name__}, not an object")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # type: ignore[arg-type]  # __post_init__ checks what JSON cannot promise


class SqueezeExcite(nn.Module):
    """Channel attention by global average pooling (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def gate(self, pooled: Tensor) -> Tensor:
        """Gate from pooled features ``(B, C, h, w)``, in 0..1, same shape."""
        return torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` with each channel scaled by its gate, same shape."""
        return x * self.gate(x.mean((2, 3), keepdim=True))  # (B, C, H, W)


class CoordinateAttention(nn.Module):
    """Attention along rows and columns apart (Hou et al. 2021, arXiv 2103.02907)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.expand_row = nn.Conv2d(hidden, channels, 1)
        self.expand_col = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` scaled by a gate for each row and one for each column, same shape."""
        height = x.shape[2]
        rows = x.mean(3, keepdim=True)  # (B, C, H, 1)
        cols = x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        both = F.hardswish(self.norm(self.reduce(torch.cat([rows, cols], 2))))  # (B, C/r, H+W, 1)
        rows, cols = both[:, :, :height], both[:, :, height:]
        row_gate = torch.sigmoid(self.expand_row(rows))  # (B, C, H, 1)
        col_gate = torch.sigmoid(self.expand_col(cols)).transpose(2, 3)  # (B, C, 1, W)
        return x * row_gate * col_gate  # (B, C, H, W)


class BalancedAttention(nn.Module):
    """``a * CA(x) + (1 - a) * SE(x)`` with ``a = sigmoid(balance)``, one learnable scalar."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coordinate = CoordinateAttention(channels)
        self.channel = SqueezeExcite(channels)
        self.balance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Both attentions of ``(B, C, H, W)``, blended, same shape."""
        a = torch.sigmoid(self.balance).to(x.dtype)
        blended: Tensor = a * self.coordinate(x) + (1 - a) * self.channel(x)  # (B, C, H, W)
        return blended


class DropBlock(nn.Module):
    """Drops contiguous squares of a feature map while training (Ghiasi et al. 2018).

    ``probability`` is set from outside by ``set_dropblock_progress``, which ramps it from 0 to its
    final value; out of training the module passes its input through.
    """

    def __init__(self, final_probability: float, size: int) -> None:
        super().__init__()
        self.final_probability = final_probability
        self.size = size
        self.probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` with squares zeroed and the rest scaled up to make up for them."""
        if not self.training or self.probability == 0.0:
            return x
        height, width = x.shape[2:]
        size = min(self.size, height, width)
        # Only squares that lie wholly inside are drawn, by their top left; gamma makes up for that.
        valid_rows, valid_cols = height - size + 1, width - size + 1
        gamma = self.probability / size**2 * (height * width) / (valid_rows * valid_cols)
        seeds = torch.rand(x.shape[0], x.shape[1], valid_rows, valid_cols, device=x.device) < gamma
        dropped = F.max_pool2d(F.pad(seeds.to(x.dtype), (size - 1,) * 4), size, 1)
        keep = 1 - dropped  # (B, C, H, W)
        return x * keep * (keep.numel() / keep.sum().clamp(min=1))


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-DropBlock-conv-BN-attention-add-ReLU, the paper's block."""

    def __init__(self, bands: int, channels: int, stride: int, attention: bool, dropblock: DropBlock) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.dropblock = dropblock
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.attention = BalancedAttention(channels) if attention else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or bands != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(bands, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, bands, H, W)`` to ``(B, channels, H/stride, W/stride)``."""
        y = self.dropblock(F.relu(self.norm1(self.conv1(x))))
        y = self.attention(self.norm2(self.conv2(y)))
        return F.relu(y + self.shortcut(x))


class BalancedNet(nn.Module):
    """Residual network with balanced attention; see ``NetworkConfig`` for its variants."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        bands = config.bands * config.unshuffle**2
        self.unshuffle: nn.Module = (
            nn.PixelUnshuffle(config.unshuffle) if config.unshuffle > 1 else nn.Identity()
        )
        self.stem = nn.Conv2d(bands, config.widths[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(config.widths[0])
        blocks: list[nn.Module] = []
        channels = config.widths[0]
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                blocks.append(
                    ResidualBlock(
                        channels,
                        width,
                        stride=2 if stage > 0 and index == 0 else 1,
                        attention=config.attention == "every" or index == depth - 1,
                        dropblock=DropBlock(config.dropblock[stage], config.dropblock_size),
                    )
                )
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to the last feature map ``(B, C, H/d, W/d)``."""
        x = self.unshuffle(x)
        x = F.relu(self.stem_norm(self.stem(x)))
        return self.blocks(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch

    def evidence(self, features: Tensor) -> Tensor:
        """Class evidence (logits before pooling) at each position, ``(B, classes, H/d, W/d)``."""
        weight = self.head.weight[:, :, None, None]
        return F.conv2d(features, weight, self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to logits ``(B, classes)``."""
        pooled = self.features(x).mean((2, 3))  # (B, C)
        return self.head(self.dropout(pooled))  # type: ignore[no-any-return]  # as above


def balanced(bands: int, classes: int) -> NetworkConfig:
    """The paper's network: stem and 11 residual blocks, attention in every one, 13.1 M parameters."""
    return NetworkConfig(
        name="balanced",
        bands=bands,
        classes=classes,
        unshuffle=1,
        widths=(64, 128, 256, 512),
        depths=(3, 3, 3, 2),
        attention="every",
        dropblock=(0.05, 0.10, 0.15, 0.20),
        dropout=0.5,
    )


def balanced_fast(bands: int, classes: int) -> NetworkConfig:
    """Three stages of two blocks on a pixel-unshuffled input, 2.8 M parameters."""
    return NetworkConfig(
        name="balanced-fast",
        bands=bands,
        classes=classes,
        unshuffle=2,
        widths=(64, 128, 256),
        depths=(2, 2, 2),
        attention="last",
        dropblock=(0.0, 0.0, 0.0),
    )


NETWORKS = {"balanced": balanced, "balanced-fast": balanced_fast}


def set_dropblock_progress(network: nn.Module, progress: float) -> None:
    """Ramp every DropBlock linearly: ``progress`` 0 keeps all, 1 drops at the final probability."""
    for module in network.modules():
        if isinstance(module, DropBlock):
            module.probability = module.final_probability * min(max(progress, 0.0), 1.0)


def fusion_weights(network: nn.Module) -> list[float]:
    """The learned ``a`` of each balanced attention, from input to output."""
    return [
        float(torch.sigmoid(module.balance.detach()))
        for module in network.modules()
        if isinstance(module, BalancedAttention)
    ]
