"""Land-use maps from Sentinel-2: from an area and a date to a georeferenced map."""

__version__ = "0.1.0"
