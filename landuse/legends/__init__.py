"""Legends: which classes a map is told in, and the tables that bring other maps' codes to them."""
