"""Checkpoints of Lightning."""
