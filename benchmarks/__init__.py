"""Benchmarks: the Speed table, measured against peers on loopback servers. Not part of the installed package."""
