"""The wire: messages, framing, connections, values. Imports only `model`. `messages.py` is the protocol's one definition."""
