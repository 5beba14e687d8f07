"""Raw bars to one row per (date, stock)."""
