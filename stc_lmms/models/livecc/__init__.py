"""LiveCC."""
