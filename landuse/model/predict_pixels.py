"""Blocks of imagery to the land cover and the land use of each pixel."""
