"""The files of a map: each whole or not at all."""
