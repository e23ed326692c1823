"""Functions and classes as handles, and their calls."""
