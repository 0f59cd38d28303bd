"""Reading and writing of Hugging Face folders: weights, adapters and tokenizers."""
