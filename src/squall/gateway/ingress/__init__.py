"""The HTTP door, and web requests on their way to containers."""
