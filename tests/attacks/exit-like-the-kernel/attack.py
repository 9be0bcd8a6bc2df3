"""An exit status of 137 is what the kernel's end for want of memory looks like: not the machine's fault."""


def main():
    os._exit(137)
