"""Nightly runs: what is new in each area becomes a map, a catalogue entry and a change layer."""
