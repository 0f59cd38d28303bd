"""Weights in every form of storage: for all of them a model writes only `x @ w`."""
