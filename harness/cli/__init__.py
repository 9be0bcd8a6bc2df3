"""The command line: parse, call, print. The one place where errors become exit codes.

Commands are loaded when they are named: `harness --help` imports neither torch nor git.
"""

import atexit
import difflib
import errno
import gc
import importlib
import os
import signal
import sys
from typing import NoReturn

import click

from harness import __version__
from harness.errors import BUG, FAILED, INTERRUPTED, HarnessError

# name -> its module, one line for the list
COMMANDS = {
    "init": ("init", "Make a research repository, or set up what is missing in one."),
    "doctor": ("doctor", "Check device, sandbox, data, git and keys; say what mends what."),
    "prepare": ("prepare", "Make the data that runs train and score on."),
    "task": ("task", "Check a task of your own: `harness task check`."),
    "cluster": ("cluster", "Hosts of a Ray cluster: which can be used, and why not."),
    "agents": ("agents", "Coding agents by name: installed, signed in, their command."),
    "loop": ("loop", "Experiment after experiment, until a limit or Ctrl-C."),
    "calibrate": ("calibrate", "Repeat the incumbent: the noise, and how small a gain shows."),
    "run": ("run", "Train and score one commit's train.py."),
    "status": ("status", "What runs now, the frontier, the last results."),
    "log": ("look", "Experiments: all, kept, near misses, crashes."),
    "show": ("look", "One experiment: message, loss curve, log."),
    "diff": ("look", "What an experiment changed; or two compared."),
    "plot": ("look", "A picture: every experiment, the frontier."),
    "ui": ("page", "A live page in the browser: what runs, what was found, is it real."),
    "report": ("page", "The same page as one file to send."),
    "export": ("look", "Results as tsv, csv or json."),
    "adopt": ("loop", "Measure old experiments' changes again, on the frontier."),
    "clean": ("clean", "Remove what old runs left in .autoresearch/runs."),
}
# To look for garbage among 10,000 experiments, once more as Python ends, would be a fifth of what each takes.
LOOKING = ("status", "look")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)  # a person's to mend
MOST_CHARS = 5000  # of an error
# What git sets for hooks, `rebase --exec` and bisect (`git rev-parse --local-env-vars`): with it every git
# that we start would work in the repository that called us, and not in the current folder's.
ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
)  # fmt: skip
HIDDEN = {"hook": ("hook", "")}  # called by git, not by people


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if (found := COMMANDS.get(name) or HIDDEN.get(name)) is None:
            if close := difflib.get_close_matches(name, COMMANDS, 1):
                ctx.fail(f"No such command {name!r}. Did you mean {close[0]!r}?")
            return None
        if found[0] in LOOKING:
            gc.disable()
            atexit.register(gc.freeze)
        module = importlib.import_module(f"harness.cli.{found[0]}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `harness doctor`. Answers go to stdout, everything else to stderr.",
)
@click.version_option(__version__, prog_name="harness")
def group() -> None:
    """A git repository that does machine-learning research on itself while you sleep."""


def _interrupt(*_: object) -> None:
    """SIGTERM ends a command as Ctrl-C does, in the background too: what it started is ended first."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit with the code that `harness.errors` gives for the outcome."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` has SIGINT ignored
        signal.signal(number, _interrupt)
    if sys.argv[1:2] != ["hook"]:  # which is about the commit that git is making
        for name in ELSEWHERE:
            os.environ.pop(name, None)
    try:
        code = group.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HarnessError as error:
        from harness.sandbox.text import one_line

        click.echo(f"harness: {one_line(error, MOST_CHARS)}", err=True)  # it may name what is anybody's
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except OSError as error:
        if error.errno not in DISK:
            _report()
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        click.echo(f"harness: {what}. Try: df -h, mount, ls -ld of that folder", err=True)
        sys.exit(FAILED)
    except Exception:  # noqa: BLE001 - the one place that catches all
        _report()


def _report() -> NoReturn:
    import traceback

    traceback.print_exc()
    click.echo("harness: this is a bug in the harness; please report it", err=True)
    sys.exit(BUG)
