"""The network that classifies each pixel: ``balanced-pixel``.

A visible and an infrared branch meet in one trunk of residual blocks with balanced attention, which two
heads share: one says what a patch is used for, the other what covers each pixel and what it is used for.
Any infrared band may be missing: the network was trained without them too.

The trunk works at a half, a quarter and an eighth of the resolution, since convolutions over every pixel are
what costs; the dense head comes back up over light layers, and its last one gives the covers of four
pixels at each position of the half resolution. What attention pools, it pools over windows of ``window_px``
around each position, in training as in use, so that a scene of any size is computed in one pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import nn

from landuse.model.networks import DropBlock, ResidualBlock, init_convolutions

if TYPE_CHECKING:
    from torch import Tensor

NAME = "balanced-pixel"

MAX_WIDTH, MAX_DEPTH, MAX_BANDS, MAX_OUTPUTS = 4096, 64, 1024, 255
"""More than any network here has; a config read from a file must not make this process build for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelNetConfig:
    """What decides the layers of a ``PixelNet``, and so which weights fit it."""

    name: str = NAME
    """Always ``"balanced-pixel"``."""
    visible: int
    """Visible bands, the first of the input."""
    infrared: int
    """Infrared bands, the others."""
    covers: int
    """Land covers."""
    uses: int
    """Land uses, which patches are classified as too."""
    branch: int = 32
    """Channels of each branch."""
    widths: tuple[int, int, int] = (48, 128, 256)
    """Channels at a half, a quarter and an eighth of the resolution."""
    depths: tuple[int, int, int] = (1, 2, 2)
    """Residual blocks at each of them."""
    decoder: tuple[int, int] = (64, 48)
    """Channels of the dense head at a quarter and a half of the resolution."""
    window_px: int = 64
    """Side of the windows that attention pools over, in pixels of the input."""
    classes: int = 0
    """Classes of a user's own that a ``ClassHead`` tells apart; 0: there is no such head."""

    def __post_init__(self) -> None:
        if self.name != NAME:
            raise ValueError(f"name is {self.name!r}; use {NAME}")
        if len(self.widths) != 3 or len(self.depths) != 3 or len(self.decoder) != 2:
            raise ValueError(
                f"widths {self.widths}, depths {self.depths} and decoder {self.decoder} need 3, 3 and 2 "
                "values"
            )
        limits = (
            (MAX_BANDS, (self.visible, self.infrared)),
            (MAX_OUTPUTS, (self.covers, self.uses)),
            (MAX_WIDTH, (self.branch, *self.widths, *self.decoder)),
            (MAX_DEPTH, self.depths),
        )
        for limit, values in limits:
            if not all(isinstance(value, int) and 1 <= value <= limit for value in values):
                raise ValueError(f"{values} must be whole numbers in 1..{limit}")
        if type(self.classes) is not int or not (self.classes == 0 or 2 <= self.classes <= MAX_OUTPUTS):
            raise ValueError(f"classes is {self.classes!r}; use 0, or 2 to {MAX_OUTPUTS}")
        window = self.window_px
        if not isinstance(window, int) or window % 16 or not 16 <= window <= 1024:
            raise ValueError(f"window_px is {window!r}; use a multiple of 16 in 16..1024")

    @property
    def bands(self) -> int:
        """Input bands."""
        return self.visible + self.infrared

    def to_dict(self) -> dict[str, object]:
        """The config as plain JSON values; without ``classes`` where there are none, as it always was."""
        values = asdict(self)
        if not self.classes:
            del values["classes"]
        return values

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


class Pyramid(NamedTuple):
    """Feature maps of the trunk, from fine to coarse."""

    stem: Tensor
    """(B, 2 * branch, H/2, W/2), both branches."""
    half: Tensor
    """(B, widths[0], H/2, W/2)."""
    quarter: Tensor
    """(B, widths[1], H/4, W/4)."""
    eighth: Tensor
    """(B, widths[2], H/8, W/8)."""


class DenseFeatures(NamedTuple):
    """What the dense head of a network knows of a block's pixels."""

    half: Tensor
    """(B, decoder[1], H/2, W/2), its last features."""
    cover: Tensor
    """(B, covers, H, W), logits."""
    use_half: Tensor
    """(B, uses, H/2, W/2), logits."""

    @property
    def use(self) -> Tensor:
        """(B, uses, H, W), logits, each of four pixels."""
        return _doubled(self.use_half)


class ClassHead(nn.Module):
    """A linear head for classes of a user's own, on what the network knows of each pixel and on its bands.

    The logits are ``weight @ features + bias``. A pixel's features are, in this order, the dense head's last
    ones, the logits of the uses and of the covers, the standardised bands (0 where one is missing), and 1
    where the image has no infrared band. It is computed in two parts, since the first two are of half the
    resolution.
    """

    def __init__(self, config: PixelNetConfig) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(config.decoder[1] + config.uses, config.classes, 1)
        self.fine = nn.Conv2d(config.covers + config.bands + 1, config.classes, 1, bias=False)

    def forward(self, found: DenseFeatures, x: Tensor, present: Tensor) -> Tensor:
        """Logits of each pixel's class, (B, classes, H, W).

        Args:
            found: of ``PixelNet.dense_features``.
            x: the network's input.
            present: as for ``PixelNet.features``.
        """
        coarse: Tensor = self.coarse(coarse_features(found))
        fine: Tensor = self.fine(fine_features(found, x, present))
        return _doubled(coarse) + fine

    def load_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Take the weights of a linear function of a pixel's features, (classes, features) and (classes,)."""
        coarse = self.coarse.weight.shape[1]
        with torch.no_grad():
            self.coarse.weight.copy_(weight[:, :coarse, None, None])
            self.fine.weight.copy_(weight[:, coarse:, None, None])
            if self.coarse.bias is not None:
                self.coarse.bias.copy_(bias)


def coarse_features(found: DenseFeatures) -> Tensor:
    """The features of a ``ClassHead`` that are of half the resolution, (B, n, H/2, W/2) float32."""
    return torch.cat([found.half.float(), found.use_half.float()], 1)


def fine_features(found: DenseFeatures, x: Tensor, present: Tensor) -> Tensor:
    """The features of a ``ClassHead`` that are of the full resolution, (B, n, H, W) float32."""
    visible = x.shape[1] - present.shape[1]
    there = x[:, visible:] * present[:, :, None, None]
    blind = (present == 0).all(1).to(x.dtype)[:, None, None, None]
    blind = blind.expand(x.shape[0], 1, *x.shape[2:])
    return torch.cat([found.cover.float(), x[:, :visible], there, blind], 1)


class PixelNet(nn.Module):
    """See the module; ``forward`` gives the logits of a patch, ``dense`` those of each pixel."""

    position_px = 8
    """Input pixels from one position of the coarsest feature map to the next; sides are multiples of it."""

    def __init__(self, config: PixelNetConfig) -> None:
        super().__init__()
        self.config = config
        branch, (half, quarter, eighth) = config.branch, config.widths
        self.unshuffle = nn.PixelUnshuffle(2)
        self.visible = nn.Conv2d(config.visible * 4, branch, 3, 1, 1, bias=False)
        self.visible_norm = nn.BatchNorm2d(branch)
        self.infrared = nn.Conv2d(config.infrared * 4, branch, 3, 1, 1, bias=False)
        self.infrared_norm = nn.BatchNorm2d(branch)
        self.missing = nn.Parameter(torch.zeros(config.infrared, branch))
        self.stage1 = _stage(2 * branch, half, config.depths[0], stride=1, attention=False)
        self.stage2 = _stage(half, quarter, config.depths[1], stride=2, attention=True)
        self.stage3 = _stage(quarter, eighth, config.depths[2], stride=2, attention=True)
        self.head = nn.Linear(eighth, config.uses)

        wide, narrow = config.decoder
        # Each convolution is followed by its own norm, which ``networks.fold_norms`` folds into it.
        self.from_eighth = nn.Conv2d(eighth, wide, 1, bias=False)
        self.from_eighth_norm = nn.BatchNorm2d(wide)
        self.from_quarter = nn.Conv2d(quarter, wide, 1, bias=False)
        self.from_quarter_norm = nn.BatchNorm2d(wide)
        self.mix_quarter = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.mix_quarter_norm = nn.BatchNorm2d(wide)
        self.to_half = nn.Conv2d(wide, narrow, 1, bias=False)
        self.to_half_norm = nn.BatchNorm2d(narrow)
        self.from_half = nn.Conv2d(half + 2 * branch, narrow, 1, bias=False)
        self.from_half_norm = nn.BatchNorm2d(narrow)
        self.mix_half = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False)
        self.mix_half_norm = nn.BatchNorm2d(narrow)
        self.covers = nn.Conv2d(narrow, 4 * config.covers, 3, 1, 1)
        self.uses = nn.Conv2d(narrow, config.uses, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.learned = ClassHead(config) if config.classes else None
        init_convolutions(self)
        for head in (self.covers, self.uses):
            if not head.weight.is_meta:
                nn.init.normal_(head.weight, std=0.01)  # starts undecided: logits near 0

    def features(self, x: Tensor, present: Tensor) -> Pyramid:
        """The trunk.

        Args:
            x: (B, visible + infrared, H, W), standardised; H and W are multiples of ``position_px``.
                Whatever stands in a missing band is not looked at. In use bands that no image has may be
                left out.
            present: (B, infrared) or (1, infrared), 1 where a band is there, 0 where it is missing.
        """
        visible, infrared = x[:, : self.config.visible], x[:, self.config.visible :]
        seen = self.visible_norm(self.visible(self.unshuffle(visible)))
        unseen = (1 - present.float()) @ self.missing.float()  # (B, branch)
        felt = self._felt(infrared, present, seen) + unseen[:, :, None, None].to(seen.dtype)
        stem = F.relu(torch.cat([seen, felt.expand_as(seen)], 1), inplace=True)
        window = self.config.window_px
        half = _through(self.stage1, stem, window // 2)
        quarter = _through(self.stage2, half, window // 4)
        return Pyramid(stem, half, quarter, _through(self.stage3, quarter, window // 8))

    def _felt(self, infrared: Tensor, present: Tensor, seen: Tensor) -> Tensor:
        """What the infrared branch's convolution makes of the bands that are there.

        It is like ``seen``, or (1, branch, 1, 1) where no band is there.
        """
        if not self.training and bool((present == present[:1]).all()):
            # In use all images have the same bands: the convolution of the others would be of zeros.
            there = present[0].nonzero().flatten().tolist()
            if not there:
                constant = self.infrared_norm(seen.new_zeros((1, self.config.branch, 1, 1)))
                bias = self.infrared.bias
                # With a bias the norm is folded into the convolution.
                return constant if bias is None else bias.to(seen.dtype)[None, :, None, None]
            if len(there) < infrared.shape[1]:
                infrared = infrared[:, there]
            of_bands = [4 * band + place for band in there for place in range(4)]  # as unshuffling has them
            kernel = self.infrared.weight[:, of_bands]
            felt = F.conv2d(self.unshuffle(infrared), kernel, self.infrared.bias, padding=1)
        else:
            held = infrared * present.to(infrared.dtype)[:, :, None, None]
            felt = self.infrared(self.unshuffle(held))
        return self.infrared_norm(felt)  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch

    def patch_evidence(self, pyramid: Pyramid) -> Tensor:
        """Evidence of each use (logits) at each position, (B, uses, H/8, W/8); its mean is a patch's."""
        eighth = pyramid.eighth.float()
        return F.conv2d(eighth, self.head.weight[:, :, None, None], self.head.bias)

    def dense(self, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Logits of each pixel's cover, (B, covers, H, W), and of its use, (B, uses, H, W).

        The use is told at a half of the resolution: no label says it of a single pixel.
        """
        found = self.dense_features(pyramid)
        return found.cover, found.use

    def decoded(self, pyramid: Pyramid) -> Tensor:
        """The last features of the dense head, (B, decoder[1], H/2, W/2)."""
        coarse = _doubled(self.from_eighth_norm(self.from_eighth(pyramid.eighth)))
        y = F.relu(self.from_quarter_norm(self.from_quarter(pyramid.quarter)).add_(coarse), inplace=True)
        y = F.relu(self.mix_quarter_norm(self.mix_quarter(y)), inplace=True)
        coarse = _doubled(self.to_half_norm(self.to_half(y)))
        z = F.relu(self.from_half_norm(self._from_half(pyramid)).add_(coarse), inplace=True)
        z = F.relu(self.mix_half_norm(self.mix_half(z)), inplace=True)
        return z

    def _from_half(self, pyramid: Pyramid) -> Tensor:
        """``from_half`` of the half and the stem together."""
        if torch.is_grad_enabled():
            joined: Tensor = self.from_half(torch.cat([pyramid.half, pyramid.stem], 1))
            return joined
        # A convolution of two maps is the sum of one of each: they need not be copied side by side.
        kernel = self.from_half.weight
        split = pyramid.half.shape[1]
        own = F.conv2d(pyramid.half, kernel[:, :split], self.from_half.bias)
        return own.add_(F.conv2d(pyramid.stem, kernel[:, split:]))

    def dense_features(self, pyramid: Pyramid) -> DenseFeatures:
        """What ``dense`` makes its logits of, and these, for a ``ClassHead``."""
        z = self.decoded(pyramid)
        if torch.is_grad_enabled():
            return DenseFeatures(half=z, cover=self.shuffle(self.covers(z)), use_half=self.uses(z))
        # Both heads in one convolution: one of few channels takes as long as one of more.
        heads = (self.covers, self.uses)
        kernel = torch.cat([head.weight for head in heads])
        bias = torch.cat([head.bias for head in heads if head.bias is not None])
        logits = F.conv2d(z, kernel, bias, padding=1)
        covers, uses = logits[:, : self.covers.out_channels], logits[:, self.covers.out_channels :]
        return DenseFeatures(half=z, cover=self.shuffle(covers), use_half=uses)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Logits of patches, (B, uses); ``x`` and ``present`` as for ``features``."""
        pooled = self.features(x, present).eighth.mean((2, 3))
        return self.head(pooled)  # type: ignore[no-any-return]  # nn.Module calls are untyped in torch


def _stage(bands: int, channels: int, depth: int, *, stride: int, attention: bool) -> nn.ModuleList:
    """Residual blocks; the first takes the stride, the last has the attention."""
    return nn.ModuleList(
        ResidualBlock(
            bands if index == 0 else channels,
            channels,
            stride=stride if index == 0 else 1,
            attention=attention and index == depth - 1,
            dropblock=DropBlock(0.0, 7),
        )
        for index in range(depth)
    )


def _through(stage: nn.ModuleList, x: Tensor, window: int) -> Tensor:
    for block in stage:
        x = block(x, window)
    return x


def _doubled(x: Tensor) -> Tensor:
    """Twice as many rows and columns, each pixel four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def balanced_pixel(visible: int, infrared: int, covers: int, uses: int) -> PixelNetConfig:
    """The network of the shipped map model, 2.8 M parameters."""
    return PixelNetConfig(visible=visible, infrared=infrared, covers=covers, uses=uses)
