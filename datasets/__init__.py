"""Data sets: lists of objects as training loops want them, in PyTorch, JAX and TensorFlow. README.md is the map."""
