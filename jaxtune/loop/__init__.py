"""The training loop: phases, steps, callbacks, history, resuming."""
