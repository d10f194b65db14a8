"""Maps by Dynamic World's own network: ``dynamic_world.py SAVED_MODEL SOURCE OUT``.

An example of a network that landuse does not know: TensorFlow's SavedModel of Brown et al. (2022, Scientific
Data 9, 251), as a function of arrays with a contract, given to ``landuse.map``. It needs TensorFlow beside
landuse (``pip install tensorflow``), and nine bands of L1C or L2A. SOURCE is what ``--source`` may be; the
network learned from L1C, so that of L2A a clear atmosphere's path radiance is added to the visible bands.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import landuse
from landuse.classes import LAND_COVER_NAMES
from landuse.errors import LanduseError, ModelError

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
LOW = (1.7417, 1.7261, 1.6798, 1.7735, 2.2892, 2.3829, 2.3829, 2.1953, 1.5548)
RANGE = (2.0233, 2.0389, 2.1796, 2.2890, 2.6172, 2.7734, 2.7578, 2.7891, 2.4140)

CONTRACT = {
    "format": "landuse-foreign-model-1",
    "name": "dynamic-world",
    "kind": "dense",
    "bands": BANDS,
    "levels": {"L1C": {}, "L2A": {"offset_dn": [700, 400, 300, 0, 0, 0, 0, 0, 0]}},
    "classes": LAND_COVER_NAMES,
    # The network's own scale is no mean and spread: the function below gets DN and makes its input.
    "mean_dn": 0,
    "std_dn": 1,
    "size_px": 512,
    "context_px": 64,
    "multiple_px": 16,
    "output": "logits",
    "layout": "channels-last",
}


def dynamic_world(folder: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network as a function of (1, H, W, 9) DN, which returns (1, H, W, 9) logits.

    Raises:
        ModelError: TensorFlow is not installed, or the folder holds no SavedModel.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise ModelError(
            f"Dynamic World's network needs TensorFlow, which is not installed ({error}). Install it: pip "
            "install tensorflow."
        ) from error
    if not (folder / "saved_model.pb").is_file():
        raise ModelError(f"{folder} holds no saved_model.pb. Give the folder of Dynamic World's SavedModel.")
    model = tensorflow.saved_model.load(str(folder))
    low, spread = np.array(LOW, np.float32), np.array(RANGE, np.float32)

    def network(dn: NDArray[np.float32]) -> NDArray[np.float32]:
        x = (np.log(dn * np.float32(0.005) + np.float32(1)) - low) / spread
        x = np.exp(x * np.float32(5) - np.float32(1))
        logits: NDArray[np.float32] = model(tensorflow.constant(x / (x + 1))).numpy()
        return logits

    return network


def main() -> None:
    """Map and say what was mapped."""
    if len(sys.argv) != 4:
        sys.exit(str(__doc__))
    try:
        network = dynamic_world(Path(sys.argv[1]))
        model = landuse.ForeignModel(network, CONTRACT, version="forward, 2022")
        report = landuse.map(source=sys.argv[2], model=model, out=sys.argv[3])
    except LanduseError as error:
        sys.exit(str(error))
    for entry in report.classes:
        print(f"{entry.name:20} {entry.area_ha:10,.1f} ha")


if __name__ == "__main__":
    main()
