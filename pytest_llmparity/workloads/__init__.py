"""Prompts and texts, and the workloads of token ids made of them."""
