"""Training and measuring: patches in, weights and scores out."""
