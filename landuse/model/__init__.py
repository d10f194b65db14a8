"""Networks, their training and their weights. Imports no typer."""

DEFAULT_MODEL = "balanced-fast-rgb"
"""The shipped model that patches are classified with when none is named."""

MAP_MODEL = "balanced-fast-rgb-dense"
"""The shipped model that maps are made with when none is named: trained for windows that share features."""
