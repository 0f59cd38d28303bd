"""Weights per task, one paper per file. `base` holds the shape they share."""
