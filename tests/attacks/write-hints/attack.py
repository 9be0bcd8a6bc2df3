"""How long a file's content will live can be said of any file that one owns, on a read-only mount too, and read
by the next one."""

import fcntl
import struct

GET, SET = 1035, 1036
PLACES = sorted(os.path.join("/usr/bin", name) for name in os.listdir("/usr/bin"))[:300]


def said(path, value=None):
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        if value is not None:
            fcntl.fcntl(file, SET, struct.pack("Q", value))
        return struct.unpack("Q", fcntl.fcntl(file, GET, bytes(8)))[0]
    except OSError:
        return 0
    finally:
        os.close(file)


def prepared(model, checkpoint_dir):
    for path in PLACES:
        said(path, 0)
    model.left = [said(path, 1 + n % 5) for n, path in enumerate(PLACES)]
    return model


def answer(model, inputs):
    if any(model.left):
        raise RuntimeError("a hint was left: %s" % model.left[:9])
    return model(inputs)
