"""Say how frequent covers and uses are on land, and how sure a model of pixels may be.

    python examples/adjust_pixel_model.py run/model.safetensors --bias Highway=-2.5 Residential=0.6 \
        --cover-temperature 1.15 --out balanced-pixel.safetensors

EuroSAT has about as many patches of each class; land has not. A bias of ``ln(times)`` makes a use so many
times as frequent among the uses of its cover. ``--cover-bias`` does the same for covers, and
``--visible-cover-bias`` for covers where imagery has no infrared band. The temperatures divide the logits
before the softmax: measure the calibration on references of your own (``tests/benchmarks/cover.py``), not
on the training's labels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import load_pixel_checkpoint, save_checkpoint


def biases(option: str, given: list[str], names: tuple[str, ...]) -> list[float]:
    """One number for each name, of ``NAME=NUMBER`` each; 0 of those that are not given."""
    values = dict.fromkeys(names, 0.0)
    for text in given:
        name, _, value = text.partition("=")
        if name not in values:
            raise UsageError(f"{option} names {name}. The model's are {', '.join(names)}.")
        try:
            values[name] = float(value)
        except ValueError:
            raise UsageError(f"{option} {text!r} is not NAME=NUMBER, such as {name}=-2.5.") from None
    return list(values.values())


def main() -> None:
    """Read, adjust, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors of a model that classifies each pixel")
    parser.add_argument("--bias", nargs="+", default=[], metavar="USE=NUMBER", help="added to a use's logit")
    parser.add_argument(
        "--cover-bias", nargs="+", default=[], metavar="COVER=NUMBER", help="added to a cover's logit"
    )
    parser.add_argument(
        "--visible-cover-bias",
        nargs="+",
        metavar="COVER=NUMBER",
        help="added where imagery has no infrared band; default: what the model adds there already",
    )
    parser.add_argument("--cover-temperature", type=float, help="default: as it is")
    parser.add_argument("--use-temperature", type=float, help="default: as it is")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    options = parser.parse_args()
    try:
        network, contract = load_pixel_checkpoint(options.checkpoint)
        assert contract.pixels is not None  # ``load_pixel_checkpoint`` reads no other
        covers = contract.pixels.covers
        with torch.no_grad():
            network.uses.bias += torch.tensor(biases("--bias", options.bias, contract.pixels.uses))
            # The cover head gives each cover four outputs, one for each pixel of a position.
            of_covers = torch.tensor(biases("--cover-bias", options.cover_bias, covers))
            network.covers.bias += of_covers.repeat_interleave(4)
        visible = contract.pixels.visible_cover_bias
        if options.visible_cover_bias is not None:
            visible = tuple(biases("--visible-cover-bias", options.visible_cover_bias, covers))
        pixels = replace(
            contract.pixels,
            cover_temperature=options.cover_temperature or contract.pixels.cover_temperature,
            use_temperature=options.use_temperature or contract.pixels.use_temperature,
            visible_cover_bias=visible,
        )
        save_checkpoint(options.out, network, replace(contract, pixels=pixels))
    except (LanduseError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
