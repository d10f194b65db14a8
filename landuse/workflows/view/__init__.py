"""Finished maps, shown in a browser of this machine at full resolution."""
