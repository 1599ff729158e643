"""The network: GPT-2, its heads, its losses, and how its weights are read and written."""
