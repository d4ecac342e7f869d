"""Stream memories: what becomes of the visual tokens in the language model."""
