"""The command line. Uses the SDK and the server's requests.

Heavy modules are imported by the command that needs them, because `squall run` has to start quickly.
"""
