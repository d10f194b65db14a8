"""Models that landuse did not train: their contract, their files, and maps made with them."""
