"""A user's own rasters as a STAC catalogue that can be mapped."""
