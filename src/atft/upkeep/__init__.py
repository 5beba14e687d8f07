"""DVC's cache and temporary folders kept in order."""
