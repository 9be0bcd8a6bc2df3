"""What holds untrusted code: namespaces, system calls, limits, and what may pass its border."""
