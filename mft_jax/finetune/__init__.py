"""full | lora | qlora: frozen weights, trained weights, and their combination."""
