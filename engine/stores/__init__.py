"""What a URI means: one module per backend, one contract in `base.py`."""
