"""The node agent: turns orders into running containers and carries messages between them and the router. Decides nothing."""
