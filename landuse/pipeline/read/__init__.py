"""From scenes to the pixels of one block: read, masked, brought to one grid and one image."""
