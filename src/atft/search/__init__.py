"""Search over the knobs of `params.yaml`, on `valid` alone."""
