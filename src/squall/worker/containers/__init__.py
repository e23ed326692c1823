"""One container on this node: its process, output, commands and web connections."""
