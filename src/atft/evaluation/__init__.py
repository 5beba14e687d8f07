"""The only definitions of each number."""
