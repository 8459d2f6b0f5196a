"""What arms answered: the model, its file format, the store."""
