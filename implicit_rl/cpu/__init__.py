"""Optional kernels and settings for XLA's CPU backend; nothing here is needed elsewhere."""
