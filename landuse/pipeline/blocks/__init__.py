"""From a plan's blocks to the votes on their cells: where patches lie, and what they add up to."""
