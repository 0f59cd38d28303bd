"""full | lora | qlora: what is frozen, what is trained, and both put together."""
