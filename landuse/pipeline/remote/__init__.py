"""Bytes that are not on this machine: fetched by range, signed, retried, kept once."""
