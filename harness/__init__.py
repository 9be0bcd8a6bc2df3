"""A git-native harness for autonomous machine-learning research.

`from harness import trial` is all that a train.py ever needs. This package stays empty on purpose:
`harness --help` must not pay for torch, and what runs in the sandbox must not load git.
"""

__version__ = "0.2.0"
