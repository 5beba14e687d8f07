"""How a ranker is fitted."""
