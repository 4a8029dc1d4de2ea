"""Remote functions for notebooks."""
