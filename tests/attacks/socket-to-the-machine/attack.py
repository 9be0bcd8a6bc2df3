"""A virtual machine's own sockets are in no network namespace: the host below it can be reached."""


def main():
    import socket

    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1024))
