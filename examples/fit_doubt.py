"""Tell a model of pixels which spectra its training has shown, so that its maps tell doubt.

    python examples/fit_doubt.py run/model.safetensors --pixels pixels/l2a pixels/eurosat \
        --out balanced-pixel.safetensors

The folders are those of ``landuse train --pixels``; ``landuse train`` does the same at its end. The weights
stay as they are and are not looked at: what was fitted for one network can be given to another that reads the
same bands in the same way, with ``--like OTHER.safetensors`` in place of ``--pixels``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import load_contract, load_pixel_checkpoint, save_checkpoint
from landuse.model.training.pixels.known_spectra import fit_known_spectra
from landuse.model.training.pixels.sources import read_pixel_patches


def main() -> None:
    """Read, fit, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors of a model that classifies each pixel")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pixels", nargs="+", type=Path, metavar="FOLDER", help="the training's patches")
    source.add_argument("--like", type=Path, metavar="CHECKPOINT", help="take over what it knows")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    options = parser.parse_args()
    try:
        network, contract = load_pixel_checkpoint(options.checkpoint)
        if options.like is not None:
            like = load_contract(options.like)
            if (like.bands, like.levels) != (contract.bands, contract.levels):
                raise UsageError(f"{options.like} reads other bands or levels. Fit anew, with --pixels.")
            spectra = like.spectra
        else:
            uses = contract.patch_classes
            sets = [read_pixel_patches(folder, uses, contract.bands) for folder in options.pixels]
            spectra = fit_known_spectra([(entry.dn, entry.bands, entry.level) for entry in sets], contract)
        if spectra is None:
            raise UsageError(
                f"There are no spectra of all of {', '.join(contract.bands)}. Give patches that have them, "
                "or a checkpoint that knows its spectra."
            )
        save_checkpoint(options.out, network, replace(contract, spectra=spectra))
    except (LanduseError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
