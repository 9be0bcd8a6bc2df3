"""The nodes below /dev are the host's: their mode, times and access lists outlast the run."""

import contextlib


def main():
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        path = "/dev/" + name
        for change in (
            lambda: os.chmod(path, 0o600),
            lambda: os.utime(path, ns=(7, 7)),
            lambda: os.setxattr(path, "system.posix_acl_access", bytes.fromhex("02000000") + bytes(24)),
            lambda: os.setxattr(path, "user.note", b"note"),
        ):
            with contextlib.suppress(OSError):
                change()
    run = trial.open()
    run.submit(trained(run))
