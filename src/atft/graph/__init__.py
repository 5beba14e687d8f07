"""Who informs whom as of a date."""
