"""CPU-only code for convolutions: forms that XLA runs fast, and calls to oneDNN."""
