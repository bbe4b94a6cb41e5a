"""What is measured, never asserted: speed, and how well fine-tuning learns."""
