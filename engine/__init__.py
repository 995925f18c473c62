"""The engine: from lists of URIs to views of shared memory. `engine/README.md` is its map."""
