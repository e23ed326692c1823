"""The hot path: from a call to its container and back."""
