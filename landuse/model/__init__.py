"""Networks, their training and their weights. Imports no typer."""

from pathlib import Path

DEFAULT_MODEL = "balanced-fast-rgb"
"""The shipped model that patches are classified with when none is named."""

MAP_MODEL = "balanced-pixel"
"""The shipped model that maps are made with when none is named: it classifies each pixel."""

PRECISIONS = ("fp32", "bf16", "auto")
"""Arithmetic of a model of pixels: float32, bfloat16, or what is measured to be faster."""

WEIGHTS = Path(__file__).parent / "weights"
"""Where the models that come with the package lie."""


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))
