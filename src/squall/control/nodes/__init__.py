"""The machines' capacity, and who gets it."""
