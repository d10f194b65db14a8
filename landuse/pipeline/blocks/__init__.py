"""From a plan's blocks to the votes on their cells: windows, and what they add up to."""
