"""`python -m mft_jax` is `mft`."""

from mft_jax.cli import main

if __name__ == "__main__":
    main()
