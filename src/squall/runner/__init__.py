"""What runs inside a container. Imports only `model`, `wire` and the standard library, so that it starts in milliseconds."""
