"""What a running app prints, and where it goes."""
