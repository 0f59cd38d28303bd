"""One self-contained page per run, made only from metrics.jsonl.

Reading path: mft_jax.record (the file, validated) -> series (fewer points) -> charts (one SVG) ->
figures (which charts a run has) -> tables -> page (the file on disk).
"""
