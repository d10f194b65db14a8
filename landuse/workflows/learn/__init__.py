"""What ``landuse learn`` does: a user's labels over scenes become a model of the user's own classes."""
