"""Say how frequent the uses are on land, and how sure a model of pixels may be.

    python examples/adjust_pixel_model.py run/model.safetensors --bias Highway=-2.5 Residential=0.6 \
        --cover-temperature 1.15 --out balanced-pixel.safetensors

EuroSAT has about as many patches of each class; land has not. A bias of ``ln(times)`` makes a use so many
times as frequent among the uses of its cover. The temperatures divide the logits before the softmax: measure
the calibration on references of your own (``tests/benchmarks/cover.py``), not on the training's labels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import load_pixel_checkpoint, save_checkpoint


def parse_bias(text: str) -> tuple[str, float]:
    """``USE=NUMBER`` as a pair."""
    use, _, value = text.partition("=")
    try:
        return use, float(value)
    except ValueError:
        raise UsageError(f"--bias {text!r} is not USE=NUMBER, such as Highway=-2.5.") from None


def main() -> None:
    """Read, adjust, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors of a model that classifies each pixel")
    parser.add_argument("--bias", nargs="+", default=[], metavar="USE=NUMBER", help="added to a use's logit")
    parser.add_argument("--cover-temperature", type=float, help="default: as it is")
    parser.add_argument("--use-temperature", type=float, help="default: as it is")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    options = parser.parse_args()
    try:
        network, contract = load_pixel_checkpoint(options.checkpoint)
        assert contract.pixels is not None  # ``load_pixel_checkpoint`` reads no other
        uses = contract.pixels.uses
        bias = dict(parse_bias(text) for text in options.bias)
        unknown = sorted(bias.keys() - set(uses))
        if unknown:
            raise UsageError(f"--bias names {', '.join(unknown)}. The model's uses: {', '.join(uses)}.")
        with torch.no_grad():
            for use, value in bias.items():
                network.uses.bias[uses.index(use)] += value
        pixels = replace(
            contract.pixels,
            cover_temperature=options.cover_temperature or contract.pixels.cover_temperature,
            use_temperature=options.use_temperature or contract.pixels.use_temperature,
        )
        save_checkpoint(options.out, network, replace(contract, pixels=pixels))
    except (LanduseError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
