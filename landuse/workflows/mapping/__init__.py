"""From an area and dates to a map: request, scenes, plan, blocks, files, publication."""
