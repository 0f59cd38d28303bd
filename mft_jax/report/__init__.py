"""One self-contained page per run, made from metrics.jsonl alone.

Reading path: mft_jax.record (the file, validated) -> series (fewer points) -> charts (one SVG) ->
figures (which charts a run has) -> tables -> page (the file on disk).
"""
