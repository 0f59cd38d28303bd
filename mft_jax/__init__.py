"""Multi-task fine-tuning of code LLMs in JAX.

Reading path, one sitting: cli/train -> run/loop -> train_step -> losses -> balancers/coba ->
data/packing. The house is described in README.md.
"""

__version__ = "0.1.0"
