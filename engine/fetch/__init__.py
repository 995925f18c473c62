"""How bytes travel: HTTP/1.1 over non-blocking sockets, straight into slots (the fast lane)."""
