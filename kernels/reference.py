"""Every function of ops.py in plain PyTorch, for any device: what runs where there is no GPU, and the tests' oracle."""
