"""Read by one strict rule; written whole or not at all."""
