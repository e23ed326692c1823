"""The server's doors: sessions of clients, sockets, who may come in. No decisions."""
