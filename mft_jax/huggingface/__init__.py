"""Hugging Face folders, read and written: weights, adapters, tokenizers. Files only, no hub."""
