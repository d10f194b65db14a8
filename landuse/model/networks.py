"""The networks, whole, in one file.

``baseline``, ``cbam`` and ``balanced`` are the three networks of Vir, "Balanced Multi-Task
Attention for Satellite Image Classification" (arXiv 2510.15527). ``balanced-fast`` keeps the
attention of ``balanced`` and spends the arithmetic where it pays: a pixel-unshuffle stem, two
residual blocks a stage and attention in the last block of each stage only. ``resnet50`` is the
rival (He et al. 2015, arXiv 1512.03385) under torchvision's parameter names.

Every network maps ``(B, bands, H, W)`` float input to ``(B, classes)`` logits. The steps are
separate methods (``PatchNetwork``), because maps of patches need them apart: ``features`` gives
the last feature map, ``evidence`` the class evidence at each of its positions, and ``forward`` the
logits of the patch.

The blocks are those of ``pixel_network`` too, which looks at scenes of any size: there attention pools
over moving windows of so many positions around each, instead of over the whole (``moving_mean``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from landuse.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BLOCKS = 256
"""Residual blocks that a network may have; the deepest here has 11."""

MAX_BANDS, MAX_CLASSES = 1024, 255
"""More than any sensor or class raster has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """What decides the layers of a ``BalancedNet``, and so which weights fit it."""

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
        if self.bands < 1 or self.classes < 1:
            raise ValueError(f"bands={self.bands}, classes={self.classes}: need >= 1 and >= 1")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedConfig:
    """Config of a network whose layers are fixed but for its input and output."""

    name: str
    """Name in ``NETWORKS``."""
    bands: int
    """Input bands."""
    classes: int
    """Output classes."""

    def __post_init__(self) -> None:
        if self.name not in FIXED:
            raise ValueError(f"name is {self.name!r}; use {', '.join(FIXED)}")
        if not 1 <= self.bands <= MAX_BANDS or not 1 <= self.classes <= MAX_CLASSES:
            raise ValueError(
                f"bands={self.bands}, classes={self.classes}: need 1..{MAX_BANDS} and 1..{MAX_CLASSES}"
            )

    def to_dict(self) -> dict[str, object]:
        """The config as plain JSON values."""
        return asdict(self)


class PatchNetwork(nn.Module):
    """What every network here offers."""

    config: NetworkConfig | FixedConfig
    """What decides its layers."""

    @property
    def input_layer(self) -> nn.Conv2d:
        """The first convolution, whose input channels are the bands (times the stem's unshuffle^2)."""
        raise NotImplementedError

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer, whose outputs are the classes."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to the last feature map ``(B, C, h, w)``."""
        raise NotImplementedError

    def evidence(self, features: Tensor) -> Tensor:
        """Class evidence (logits) at each position of a feature map, ``(B, classes, h, w)``."""
        raise NotImplementedError


def moving_mean(x: Tensor, window: int, dim: int) -> Tensor:
    """Mean over ``window`` positions along ``dim``, centred on each position; shorter at the edges.

    An even window has no position at its centre: the two that lie half a position off are averaged.

    Args:
        x: ``(B, C, H, W)``.
        window: positions, even.
        dim: 2 for rows, 3 for columns.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _moving_mean_by_matrix(x, window, dim)
    kernel, padding = ((window, 1), (window // 2, 0)) if dim == 2 else ((1, window), (0, window // 2))
    means = F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)  # one position longer than x
    length = x.shape[dim]
    return (means.narrow(dim, 0, length) + means.narrow(dim, 1, length)).mul_(0.5)  # (B, C, H, W)


def _moving_mean_by_matrix(x: Tensor, window: int, dim: int) -> Tensor:
    """``moving_mean`` as a product with a matrix.

    Its gradient is a product too; that of pooling takes a third of a training step on a CPU.
    """
    length = x.shape[dim]
    at = torch.arange(length, device=x.device)
    shares = torch.zeros((length, length), device=x.device)
    for start in (at - window // 2, at - window // 2 + 1):
        inside = (at >= start[:, None]) & (at < start[:, None] + window)
        shares += 0.5 * inside / inside.sum(1, keepdim=True)
    last = x.permute(0, 2, 3, 1)  # (B, H, W, C), as channels_last lies in memory
    batch, height, width, channels = last.shape
    shares = shares.to(x.dtype)
    if dim == 2:
        means = (shares @ last.reshape(batch, height, width * channels)).view(last.shape)
    else:
        means = shares @ last
    return means.permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Channel attention by global average pooling (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def gate(self, x: Tensor, window: int | None = None) -> Tensor:
        """Gate in 0..1 for ``(B, C, H, W)``: ``(B, C, 1, 1)``, or of the same shape for moving windows."""
        if window is None:
            hidden = self.reduce(x.mean((2, 3), keepdim=True))
        else:
            # The mean of sums is the sum of means: it is taken of the few channels, not of the many.
            hidden = moving_mean(moving_mean(self.reduce(x), window, 3), window, 2)
        return torch.sigmoid_(self.expand(F.relu(hidden)))

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """Features ``(B, C, H, W)`` with each channel scaled by its gate, same shape."""
        return x * self.gate(x, window)  # (B, C, H, W)


class CoordinateAttention(nn.Module):
    """Attention along rows and columns apart (Hou et al. 2021, arXiv 2103.02907)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.expand_row = nn.Conv2d(hidden, channels, 1)
        self.expand_col = nn.Conv2d(hidden, channels, 1)

    def gate(self, x: Tensor, window: int | None = None) -> Tensor:
        """Gate in 0..1 for ``(B, C, H, W)``: one for each row times one for each column, same shape."""
        if window is None:
            height = x.shape[2]
            rows = x.mean(3, keepdim=True)  # (B, C, H, 1)
            cols = x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
            both = self._encode(self.reduce(torch.cat([rows, cols], 2)))  # (B, C/r, H+W, 1)
            row_code, col_code = both[:, :, :height], both[:, :, height:].transpose(2, 3)
        else:
            reduced = self.reduce(x)  # before the means, as in ``SqueezeExcite``
            row_code = self._encode(moving_mean(reduced, window, 3))  # (B, C/r, H, W)
            col_code = self._encode(moving_mean(reduced, window, 2))  # (B, C/r, H, W)
        row_gate = torch.sigmoid_(self.expand_row(row_code))  # (B, C, H, 1 or W)
        col_gate = torch.sigmoid_(self.expand_col(col_code))  # (B, C, 1 or H, W)
        if window is None or torch.is_grad_enabled():
            return row_gate * col_gate  # (B, C, H, W)
        return row_gate.mul_(col_gate)

    def _encode(self, reduced: Tensor) -> Tensor:
        encoded: Tensor = F.hardswish(self.norm(reduced))  # (B, C/r, h, w)
        return encoded

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """Features ``(B, C, H, W)`` scaled by a gate for each row and one for each column, same shape."""
        return x * self.gate(x, window)  # (B, C, H, W)


class BalancedAttention(nn.Module):
    """``a * CA(x) + (1 - a) * SE(x)`` with ``a = sigmoid(balance)``, one learnable scalar."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coordinate = CoordinateAttention(channels)
        self.channel = SqueezeExcite(channels)
        self.balance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """Both attentions of ``(B, C, H, W)``, blended, same shape."""
        # Both scale the same features, so their gates are blended: half the passes over large maps.
        channel = self.channel.gate(x, window)
        a = torch.sigmoid(self.balance).to(channel.dtype)
        coordinate = self.coordinate.gate(x, window)
        if window is None or torch.is_grad_enabled():
            return x * torch.lerp(channel, coordinate, a)  # (B, C, H, W)
        return channel.lerp_(coordinate, a).mul_(x)  # in place: maps of whole scenes are large


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
        self.attention: nn.Module = BalancedAttention(channels) if attention else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or bands != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(bands, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """Features ``(B, bands, H, W)`` to ``(B, channels, H/stride, W/stride)``.

        ``window`` is what attention pools over, in positions of the output; None is all of it.
        """
        # In place, what is made here alone: maps of whole scenes are large.
        y = self.dropblock(F.relu(self.norm1(self.conv1(x)), inplace=True))
        y = self.norm2(self.conv2(y))
        if isinstance(self.attention, BalancedAttention):
            y = self.attention(y, window)
        return F.relu(y.add_(self.shortcut(x)), inplace=True)


class BalancedNet(PatchNetwork):
    """Residual network with balanced attention; see ``NetworkConfig`` for its variants."""

    config: NetworkConfig

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
        init_convolutions(self)

    @property
    def input_layer(self) -> nn.Conv2d:
        """The stem's convolution."""
        return self.stem

    @property
    def output_layer(self) -> nn.Linear:
        """The classifier."""
        return self.head

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to the last feature map ``(B, C, H/d, W/d)``.

        Raises:
            ModelError: a side is no multiple of the stem's unshuffle.
        """
        if x.shape[2] % self.config.unshuffle or x.shape[3] % self.config.unshuffle:
            raise ModelError(
                f"Network {self.config.name} takes patches and crops whose sides are multiples of "
                f"{self.config.unshuffle} px; it was given {x.shape[2]} x {x.shape[3]} px. Use such, or "
                "another network."
            )
        x = self.unshuffle(x)
        x = F.relu(self.stem_norm(self.stem(x)), inplace=True)
        return self.blocks(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch

    def evidence(self, features: Tensor) -> Tensor:
        """Class evidence at each position, ``(B, classes, H/d, W/d)``; its mean is the logits."""
        return _linear_at_each_position(self.head, features)

    def forward(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to logits ``(B, classes)``."""
        pooled = self.features(x).mean((2, 3))  # (B, C)
        return self.head(self.dropout(pooled))  # type: ignore[no-any-return]  # as above


class ConvBlock(nn.Sequential):
    """conv3x3-BN-ReLU, ``repeats`` times: ``(B, bands, H, W)`` to ``(B, channels, H, W)``."""

    def __init__(self, bands: int, channels: int, repeats: int) -> None:
        layers: list[nn.Module] = []
        for index in range(repeats):
            layers += [
                nn.Conv2d(bands if index == 0 else channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class Baseline(PatchNetwork):
    """The paper's plain CNN: convolutions of 32, 64 and 128 channels, pools, FC 8192-512-classes.

    The paper gives the widths; batch normalisation and dropout are this project's, so that the
    same recipe trains every network. Its fully connected head takes patches of 64 px and no others.
    """

    SIDE_PX = 64

    def __init__(self, config: FixedConfig) -> None:
        super().__init__()
        self.config = config
        self.block1 = ConvBlock(config.bands, 32, 1)
        self.block2 = ConvBlock(32, 64, 1)
        self.block3 = ConvBlock(64, 128, 1)
        self.hidden = nn.Linear(128 * (self.SIDE_PX // 8) ** 2, 512)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(512, config.classes)
        init_convolutions(self)

    @property
    def input_layer(self) -> nn.Conv2d:
        """The first convolution."""
        return self.block1[0]  # type: ignore[return-value]  # nn.Sequential is untyped in torch

    @property
    def output_layer(self) -> nn.Linear:
        """The classifier."""
        return self.head

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, 64, 64)`` to ``(B, 128, 8, 8)``.

        Raises:
            ModelError: the patches have another size.
        """
        if x.shape[2:] != (self.SIDE_PX, self.SIDE_PX):
            raise ModelError(
                f"Network baseline takes patches of {self.SIDE_PX} x {self.SIDE_PX} px; it was given "
                f"{x.shape[2]} x {x.shape[3]} px. Use such patches, or another network."
            )
        for block in (self.block1, self.block2, self.block3):
            x = F.max_pool2d(block(x), 2)
        return x

    def evidence(self, features: Tensor) -> Tensor:
        """The patch's logits at each position: this head knows no place, ``(B, classes, 8, 8)``."""
        logits = self._classify(features)[:, :, None, None]
        return logits.expand(-1, -1, *features.shape[2:])

    def _classify(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(features.flatten(1)))  # (B, 512)
        return self.head(self.dropout(hidden))  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch

    def forward(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, 64, 64)`` to logits ``(B, classes)``."""
        return self._classify(self.features(x))


class Cbam(nn.Module):
    """Channel, then spatial attention (Woo et al. 2018, arXiv 1807.06521)."""

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` scaled by a gate a channel, then by one a position, same shape."""
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))  # (B, C, 1, 1)
        gate = torch.sigmoid(sum(self.expand(F.relu(self.reduce(p))) for p in pooled))  # (B, C, 1, 1)
        x = x * gate
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.spatial(summary))  # (B, C, H, W)


class CbamNet(PatchNetwork):
    """The paper's CBAM network: blocks of two convolutions, 32 to 512 channels, attention from the second on.

    A pool lies between blocks; then a 1x1 convolution, global average pooling and FC 256.
    """

    WIDTHS = (32, 64, 128, 256, 512)
    MIN_SIDE_PX = 16

    def __init__(self, config: FixedConfig) -> None:
        super().__init__()
        self.config = config
        ends = (config.bands, *self.WIDTHS)
        self.blocks = nn.ModuleList(
            ConvBlock(bands, channels, 2) for bands, channels in zip(ends, self.WIDTHS, strict=False)
        )
        self.attentions = nn.ModuleList(Cbam(channels) for channels in self.WIDTHS[1:])
        self.mix = nn.Sequential(
            nn.Conv2d(self.WIDTHS[-1], self.WIDTHS[-1], 1, bias=False),
            nn.BatchNorm2d(self.WIDTHS[-1]),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(self.WIDTHS[-1], 256)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(256, config.classes)
        init_convolutions(self)

    @property
    def input_layer(self) -> nn.Conv2d:
        """The first convolution."""
        return self.blocks[0][0]  # type: ignore[index, no-any-return]  # nn.ModuleList is untyped in torch

    @property
    def output_layer(self) -> nn.Linear:
        """The classifier."""
        return self.head

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to ``(B, 512, H/16, W/16)``.

        Raises:
            ModelError: the patches are too small for the four pools.
        """
        if min(x.shape[2:]) < self.MIN_SIDE_PX:
            raise ModelError(
                f"Network cbam takes patches and crops of at least {self.MIN_SIDE_PX} px a side; given: "
                f"{x.shape[2]} x {x.shape[3]} px. Use such, or another network."
            )
        x = self.blocks[0](x)
        for block, attention in zip(list(self.blocks)[1:], self.attentions, strict=True):
            x = attention(block(F.max_pool2d(x, 2)))
        return self.mix(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch

    def evidence(self, features: Tensor) -> Tensor:
        """The head at each position, ``(B, classes, H/16, W/16)``; not linear: its mean is not the logits."""
        hidden = F.relu(_linear_at_each_position(self.hidden, features))
        return _linear_at_each_position(self.head, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to logits ``(B, classes)``."""
        hidden = F.relu(self.hidden(self.features(x).mean((2, 3))))  # (B, 256)
        return self.head(self.dropout(hidden))  # type: ignore[no-any-return]  # as above


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the stride sits in the 3x3, as in torchvision."""

    EXPANSION = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * self.EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, channels_in, H, W)`` to ``(B, 4 * channels, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(PatchNetwork):
    """ResNet-50 with torchvision's parameter names, so that ImageNet weights load with ``--init``."""

    DEPTHS = (3, 4, 6, 3)

    def __init__(self, config: FixedConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(config.bands, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(self.DEPTHS):
            width = 64 * 2**stage
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(channels, width, 2 if stage > 0 and index == 0 else 1))
                channels = width * Bottleneck.EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, config.classes)
        init_convolutions(self)

    @property
    def input_layer(self) -> nn.Conv2d:
        """The first convolution."""
        return self.conv1

    @property
    def output_layer(self) -> nn.Linear:
        """The classifier."""
        return self.fc

    def features(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to ``(B, 2048, H/32, W/32)``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(len(self.DEPTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x

    def evidence(self, features: Tensor) -> Tensor:
        """Class evidence at each position, ``(B, classes, H/32, W/32)``; its mean is the logits."""
        return _linear_at_each_position(self.fc, features)

    def forward(self, x: Tensor) -> Tensor:
        """Input ``(B, bands, H, W)`` to logits ``(B, classes)``."""
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]  # as above


FIXED: dict[str, type[Baseline] | type[CbamNet] | type[ResNet50]] = {
    "baseline": Baseline,
    "cbam": CbamNet,
    "resnet50": ResNet50,
}
"""Networks whose layers are fixed."""


@torch.no_grad()
def fold_norms(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it: same outputs, fewer passes.

    For a trained network that will only be evaluated; it cannot be trained or saved afterwards.
    """
    for module in network.modules():
        conv: nn.Conv2d | None = None
        for name, child in list(module.named_children()):
            if conv is not None and isinstance(child, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(conv, child)
                conv.weight, conv.bias = fused.weight, fused.bias
                setattr(module, name, nn.Identity())
            conv = child if isinstance(child, nn.Conv2d) else None


def init_convolutions(network: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852), as torchvision's ResNets have it.

    A layer without storage is left alone: nothing can be drawn into it, and torch would load its compiler,
    which takes two seconds, to find that out.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _linear_at_each_position(layer: nn.Linear, features: Tensor) -> Tensor:
    """A linear layer at each position of ``(B, C, h, w)``: ``(B, outputs, h, w)``."""
    return F.conv2d(features, layer.weight[:, :, None, None], layer.bias)


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


def baseline(bands: int, classes: int) -> FixedConfig:
    """The paper's plain CNN, 4.3 M parameters."""
    return FixedConfig(name="baseline", bands=bands, classes=classes)


def cbam(bands: int, classes: int) -> FixedConfig:
    """The paper's CBAM network, 5.2 M parameters."""
    return FixedConfig(name="cbam", bands=bands, classes=classes)


def resnet50(bands: int, classes: int) -> FixedConfig:
    """ResNet-50, 23.5 M parameters."""
    return FixedConfig(name="resnet50", bands=bands, classes=classes)


NETWORKS: dict[str, Callable[[int, int], NetworkConfig | FixedConfig]] = {
    "baseline": baseline,
    "cbam": cbam,
    "balanced": balanced,
    "balanced-fast": balanced_fast,
    "resnet50": resnet50,
}
"""Configs by name, from the numbers of bands and classes."""


def build_network(config: NetworkConfig | FixedConfig) -> PatchNetwork:
    """The network of a config, freshly initialised."""
    return FIXED[config.name](config) if isinstance(config, FixedConfig) else BalancedNet(config)


def config_from_dict(values: dict[str, object]) -> NetworkConfig | FixedConfig:
    """The inverse of ``to_dict`` of either kind of config.

    Raises:
        TypeError: it is no object, or a key is missing or unknown.
        ValueError: a value is out of range.
    """
    if isinstance(values, dict) and values.get("name") in FIXED:
        return FixedConfig(**values)  # type: ignore[arg-type]  # __post_init__ checks what JSON cannot promise
    return NetworkConfig.from_dict(values)


def set_dropblock_progress(network: nn.Module, progress: float) -> None:
    """Ramp every DropBlock linearly: ``progress`` 0 keeps all, 1 drops at the final probability."""
    for module in network.modules():
        if isinstance(module, DropBlock):
            module.probability = module.final_probability * min(max(progress, 0.0), 1.0)


@torch.no_grad()
def set_fusion(network: nn.Module, scalar: float) -> None:
    """Set each balanced attention's scalar, whose sigmoid is its ``a``."""
    for module in network.modules():
        if isinstance(module, BalancedAttention):
            module.balance.fill_(scalar)


def fusion_weights(network: nn.Module) -> list[float]:
    """The learned ``a`` of each balanced attention, from input to output."""
    return [
        float(torch.sigmoid(module.balance.detach()))
        for module in network.modules()
        if isinstance(module, BalancedAttention)
    ]
