"""Write the model card of a checkpoint: ``python examples/write_model_card.py CHECKPOINT FACTS.json``.

The card lies beside the checkpoint under its name, as a STAC Item with the machine learning model
extension. What the checkpoint says itself is read from it; FACTS.json has the rest, under the keys of
``landuse.workflows.model_card.CardFacts``. The facts of the shipped models are in ``examples/model_cards``:

    python examples/write_model_card.py landuse/model/weights/balanced-fast-rgb.safetensors \
        examples/model_cards/balanced-fast-rgb.json
"""

import argparse
import sys
from pathlib import Path

from landuse.errors import LanduseError
from landuse.workflows.model_card import load_facts, write_card


def main() -> None:
    """Write the card and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the .safetensors that landuse train wrote")
    parser.add_argument("facts", type=Path, help="JSON with the fields of CardFacts")
    options = parser.parse_args()
    card = options.checkpoint.with_suffix(".json")
    try:
        write_card(options.checkpoint, load_facts(options.facts), card)
    except LanduseError as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {card}")


if __name__ == "__main__":
    main()
