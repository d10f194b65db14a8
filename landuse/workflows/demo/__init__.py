"""A simulated landscape whose truth is known, mapped without a network."""
