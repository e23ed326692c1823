"""Apps, their versions, and what calls them by itself or from the web."""
