"""What an encoder can be fitted to without labels, and what that is worth."""
