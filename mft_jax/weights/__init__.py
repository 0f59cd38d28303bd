"""Weights that know how they are multiplied: `x @ w` is all a model ever says."""
