"""Networks, their training and their weights. Imports no typer."""

DEFAULT_MODEL = "balanced-fast-rgb"
"""The shipped model that is used when none is named."""
