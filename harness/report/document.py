"""The page: as a server gives it out, file by file, and as one file that one can send.

What was found in a repository goes in packed (gzip, base64), so that no byte of it is ever read as markup.
The file asks nobody for anything: its policy allows only the scripts and styles that are written in it.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.values import as_json

FOLDER = Path(__file__).parent / "page"
STYLES = ("uplot/uPlot.min.css", "page.css")
SCRIPTS = ("uplot/uPlot.iife.min.js", "base.js", "charts.js", "experiment.js", "views.js")


def policy(scripts: str, styles: str, own: str) -> str:
    """What the page may load and whom it may ask: `own` is its server, or nobody."""
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src {own}; img-src data:; "
        f"base-uri 'none'; form-action {own}"
    )


def files() -> Mapping[str, bytes]:
    """What the page asks its server for, by name."""
    return {name.rpartition("/")[2]: (FOLDER / name).read_bytes() for name in (*STYLES, *SCRIPTS)}


def served() -> str:
    """The page of a server."""
    styles = "".join(f'<link rel="stylesheet" href="{name.rpartition("/")[2]}">\n' for name in STYLES)
    scripts = "".join(f'<script defer src="{name.rpartition("/")[2]}"></script>\n' for name in SCRIPTS)
    return _filled(styles + scripts, "")


def document(overview: Mapping[str, Any], experiments: Mapping[int, Any], main: Mapping[str, Any]) -> str:
    """One file with all that it shows.

    Args:
        experiments: the details of some, by number.
        main: what is compared with one of them.
    """
    styles, scripts = ([(FOLDER / name).read_text("utf-8") for name in names] for names in (STYLES, SCRIPTS))
    allowed = policy(" ".join(map(_digest, scripts)), " ".join(map(_digest, styles)), "'none'")
    head = f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
    head += "".join(f"<style>{text}</style>\n" for text in styles)
    everything = as_json({"overview": overview, "experiments": experiments, "main": main})
    packed = gzip.compress(everything, 9, mtime=0)
    body = f'<script type="application/gzip" id="packed">{base64.b64encode(packed).decode()}</script>\n'
    return _filled(head, body + "".join(f"<script>{text}</script>\n" for text in scripts))


def _filled(head: str, body: str) -> str:
    page = (FOLDER / "index.html").read_text("utf-8")
    before, _, rest = page.partition("<!-- head -->")
    between, _, after = rest.partition("<!-- body -->")
    return before + head + between + body + after


def _digest(text: str) -> str:
    """What a policy names an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
