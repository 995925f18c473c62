"""Other libraries' interfaces, on this engine: a changed import line is all that a program needs."""
