"""The only place where pipeline meets model."""
