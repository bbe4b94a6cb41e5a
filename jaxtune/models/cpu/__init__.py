"""What convolutions need on a CPU alone: XLA's fast forms of them, and oneDNN."""
