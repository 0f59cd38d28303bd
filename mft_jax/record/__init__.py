"""The record of a run: what `metrics.jsonl` holds, for all who write it and read it.

Reading path: schema (kinds, keys, titles, file names) -> fields and header (one line, validated)
-> reading (the whole file) -> outcome and verdict (what tables and words say of it). No jax.
"""
