"""What the server answers to clients of the wire."""
