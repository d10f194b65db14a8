"""From area and date to pixels, and from scores to files. Imports no torch and no typer."""
