"""Maps beside other people's maps: where they agree, and which of two is better."""
