"""The client that data sets, checkpoints and file systems share."""
