"""How weights move: one optimiser a file, and what bounds or averages their steps."""
