"""ATFT-GAT-FAN: ranks the stocks of a market every day, and says honestly how well.

Importing the package forgets every thread-count variable of the environment before any numeric
library reads it: two runs of one commit must give the same bytes whoever's shell they start in.
The counts come from `threads` in `params.yaml`, set by `atft.program.pin_threads`.
"""

import os

_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "POLARS_MAX_THREADS")
for _name in [name for name in os.environ if name.startswith(_PREFIXES)]:
    del os.environ[_name]
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS has no deterministic product
