"""An upstream that costs next to nothing: reads a request's body to its end, then answers 204.

nginx's `return 204` would answer before it has read the body, which spoils the connection for a
proxy in front; and it reads by 4 KB. Run as `python sink.py PORT`.
"""

import re
import socket
import sys
import threading

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(connection: socket.socket) -> None:
    """Answer one request after another until the client is gone."""
    room = bytearray(1 << 20)
    with connection:
        while True:
            head = b""
            while HEAD_END not in head:
                n = connection.recv_into(room)
                if not n:
                    return
                head += room[:n]
            at = head.index(HEAD_END)
            length = LENGTH.search(head, 0, at)
            left = int(length[1]) - (len(head) - at - len(HEAD_END)) if length else 0
            while left > 0:
                n = connection.recv_into(room)
                if not n:
                    return
                left -= n
            connection.sendall(ANSWER if length else READY)


def main() -> None:
    """Serve, a thread a connection."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=[connection], daemon=True).start()


if __name__ == "__main__":
    main()
