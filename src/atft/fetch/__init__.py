"""Real bars into data/raw, outside the DAG."""
