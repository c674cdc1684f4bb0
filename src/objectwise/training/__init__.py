"""The one training loop, its checkpoints, and evaluation; names no model and no dataset."""
