"""A counter of the kernel's, sent to oneself and not yet received, is in nobody's table of descriptors."""

import socket


def prepared(model, checkpoint_dir):
    model.sockets = one, _ = socket.socketpair()
    with open("/proc/vmstat") as counters:
        socket.send_fds(one, [b"x"], [counters.fileno()])
    return model
