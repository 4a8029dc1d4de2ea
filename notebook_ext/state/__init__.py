"""State that outlives a call: `Dict` and `Queue`, which the broker keeps, and `Volume`."""
