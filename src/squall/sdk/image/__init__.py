"""Images as recipes."""
