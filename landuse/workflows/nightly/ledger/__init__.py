"""The record of what nightly runs have mapped, and are to map: in SQLite or PostgreSQL."""
