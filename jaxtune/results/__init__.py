"""What a network predicts, and how good that is."""
