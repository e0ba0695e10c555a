"""Training of networks: samples, losses, the loop, and conversion between NumPy and torch."""
