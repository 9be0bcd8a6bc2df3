"""`harness ui` and `harness report`, in a real browser: what is seen, what is safe, how fast it is."""

import http.client
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import needs_browser, serving
from conftest import HONEST, harness
from past import fill
from sessions import BROKEN, FASTER, WORSE, Script, session

from harness.report import exports
from harness.report.details import experiment, side
from harness.report.snapshot import snapshot
from harness.report.values import as_json, overview
from harness.store.decisions import Decision, Incumbent, Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.records import CRASH, Point, RunRecord, Training

VIEWS = ("overview", "experiments", "tree", "real", "time", "experiment/7", "compare/7/9")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    fill(folder, 40)
    return folder


@pytest.fixture(scope="module")
def served(few):
    with serving(few) as (address, _):
        yield address


def ask(address, path, method="GET", **headers):
    """Status and body, with headers and a path that no browser would send."""
    where = urlsplit(address)
    line = http.client.HTTPConnection(where.netloc, timeout=10)
    line.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders()
    answer = line.getresponse()
    return answer.status, answer.read()


def test_without_the_token_there_is_nothing(served):
    token = urlsplit(served).path.strip("/")
    for path in (
        "/",
        "/overview",
        "/live",
        f"/{token[:-1]}/overview",
        f"/{token}x/overview",
        "//overview",
        "/%00/",
    ):
        assert ask(served, path)[0] == 403, path
    assert ask(served, f"/{token}/overview")[0] == 200


def test_only_this_host_is_answered_and_no_page_of_another_one(served):
    path, port = urlsplit(served).path, urlsplit(served).port
    assert ask(served, path, Host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port + 1}", ""):
        assert ask(served, path, Host=host)[0] == 403, host
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}"):
        assert ask(served, f"{path}overview", Origin=origin)[0] == 403, origin
    assert ask(served, f"{path}overview", Sec_Fetch_Site="cross-site")[0] == 403
    assert (
        ask(served, f"{path}overview", Sec_Fetch_Site="same-site")[0] == 403
    )  # another port of this machine


def test_nothing_can_be_changed_and_no_path_leads_elsewhere(served):
    path = urlsplit(served).path
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(served, f"{path}overview", method)[0] == 405
    away = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "base.js/../../x", "page.css%00", "%2e%2e/x"]
    for name in (*away, "experiment/..", "experiment/999", "compare/7/nothing", "uplot/uPlot.min.css"):
        assert ask(served, path + name)[0] in (403, 404), name


def test_to_look_writes_nothing_into_the_repository(few, served):
    def everything():
        return {str(path): path.stat().st_mtime_ns for path in few.rglob("*")}

    before, path = everything(), urlsplit(served).path
    for name in ("", "overview", "experiment/7", "compare/main/9"):
        assert ask(served, path + name)[0] == 200
    assert everything() == before


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark"), (3840, "light")])
def test_every_view_is_drawn_accessible_and_asks_nobody_else(served, watch, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    seen = watch(served, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for view in VIEWS:
        page = seen.look(view)
        time.sleep(0.2)
        found = Axe().run(page).response["violations"]
        assert not found, f"{view}: {json.dumps([(each['id'], each['nodes'][0]['html']) for each in found])}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is too wide"


@needs_browser
def test_keys_go_through_the_experiments(served, watch):
    page = watch(served).look("experiments")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('0039 Change')")
    page.keyboard.press("j")
    page.wait_for_selector("h2:has-text('0038 Change')")
    page.keyboard.press("k")
    page.wait_for_selector("h2:has-text('0039 Change')")
    page.keyboard.press("Escape")
    page.wait_for_selector("table")
    page.keyboard.press("/")
    page.keyboard.type("try 12")
    assert page.inner_text("main [role=status]") == "1 of 40 experiments"


EVIL = (
    "<img src=x onerror=alert(1)><script>window.bad=1</script> javascript:alert(2) \u202eevil\u202c </script>"
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A repository in which all that can be somebody's text is markup."""
    folder = tmp_path_factory.mktemp("hostile")
    fill(folder, 3)
    experiments = Experiments(open_repository(folder))
    head = experiments.main
    for number, title in enumerate((EVIL, "x" * 1_000_000 + EVIL)):
        source = f"{HONEST}# {EVIL} {number}\n{'y' * 1_000_000}".encode()
        begun = experiments.begin(
            Proposal(title, EVIL * 100, source, "javascript:alert(3)", cost_usd=0.1), head, f"evil{number}"
        )
        training = Training(CRASH, EVIL, curve=(Point(1.0, 1, 2.0),), log=EVIL * 100)
        run = RunRecord(
            begun.commit,
            1,
            CRASH,
            EVIL,
            None,
            training,
            None,
            1.0,
            EVIL,
            None,
            "d",
            "e",
            "none",
            1.0,
            host=EVIL,
        )
        experiments.complete(begun, run, Decision(CRASH, EVIL, Incumbent(head, 2.0)))
    return folder


BAD = (
    "\ud800", 10**400, -(10**30), 1e308, float("nan"), float("inf"), [], {}, None, "x", True,
    [[1e308, 2.0]] * 3, {"a": {"b": [1]}},
)  # fmt: skip


def test_no_record_that_somebody_else_wrote_stops_the_page(tmp_path, monkeypatch):
    """Each figure of a record in turn is each kind of nonsense."""
    fill(tmp_path, 20)
    monkeypatch.chdir(tmp_path)
    now = snapshot(open_repository())
    kept = next(each for each in reversed(now.experiments) if each.status == "keep")
    honest = dict(now.note(kept).stored)

    def places(value, path=()):
        if isinstance(value, dict):
            return [found for name, inner in value.items() for found in places(inner, (*path, name))] + [path]
        if isinstance(value, list):
            return (places(value[0], (*path, 0)) if value else []) + [path]
        return [path]

    for number, path in enumerate(found for found in places(honest) if found):
        record = json.loads(json.dumps(honest))
        *above, last = path
        inner = record
        for name in above:
            inner = inner[name]
        inner[last] = BAD[number % len(BAD)]
        for bad in (BAD[number % len(BAD)], BAD[(number * 7 + 3) % len(BAD)]):
            inner[last] = bad
            text = json.dumps(record)
            command = ["git", "notes", "--ref", "autoresearch", "add", "-f", "-F", "-", kept.commit]
            subprocess.run(command, input=text, text=True, check=True, capture_output=True)
            now = snapshot(open_repository())
            for found in (overview(now), experiment(now, kept), side(now, str(kept.name.number))):
                assert b"Infinity" not in as_json(found) and b"NaN" not in as_json(found), (path, bad)
            list(exports.runs(now))


@needs_browser
@pytest.mark.parametrize("kind", ["live", "report"])
def test_what_others_wrote_is_text_and_never_markup(hostile, watch, tmp_path, kind):
    with serving(hostile) as (address, _):
        if kind == "report":
            assert harness("report", "-o", str(tmp_path / "r.html"), cwd=hostile).returncode == 0
            address = (tmp_path / "r.html").as_uri()
        seen = watch(address)
        seen.page.on("dialog", lambda dialog: seen.troubles.append("a dialog"))
        for view in ("overview", "experiments", "tree", "time", "experiment/4", "experiment/5"):
            page = seen.look(view)
            time.sleep(0.2)
            assert page.evaluate(
                "window.bad === undefined && !document.querySelector('main img, main script')"
            )
            if view == "experiment/4":
                assert "<script>window.bad=1</script>" in page.inner_text("main")


@needs_browser
def test_a_report_is_one_file_that_opens_from_disk_without_the_holdout(few, watch, tmp_path):
    done = harness("report", "-o", str(tmp_path / "report.html"), "--top", "5", cwd=few)
    assert done.returncode == 0, done.stderr
    seen = watch((tmp_path / "report.html").as_uri())
    for view in (*VIEWS[:5], "compare/main/40"):
        assert seen.look(view).inner_text("#headline").startswith("40 experiments")
    seen.page.wait_for_selector("h3:has-text('main')")
    assert "Left out of this report" in seen.look("real").inner_text("main")
    assert "harness report --top N" in seen.look("experiment/1").inner_text("main")


def test_a_report_of_a_part_knows_what_its_experiments_were_built_on(few, monkeypatch):
    monkeypatch.chdir(few)
    now = snapshot(open_repository())
    part = overview(replace(now, since=now.experiments[20].seconds))["experiments"]
    whole = overview(now)["experiments"]
    assert part["number"] == whole["number"][20:] and part["parent"] == whole["parent"][20:]


def test_what_is_kept_from_an_earlier_look_changes_nothing_in_the_next_one(tmp_path, monkeypatch):
    """Whatever happened in between: notes, branches and `main`."""
    fill(tmp_path, 150)
    monkeypatch.chdir(tmp_path)
    now = snapshot(open_repository())
    overview(now)
    kept = [each for each in now.experiments if each.status == "keep"]
    git = lambda *args, **more: subprocess.run(["git", *args], check=True, capture_output=True, **more)  # noqa: E731

    def on(parent):
        made = git("commit-tree", "-p", parent, "-m", "mine", f"{parent}^{{tree}}")
        return made.stdout.decode().strip()

    mine = [on(kept[-1].commit)]
    mine.append(on(mine[0]))
    note = json.dumps(now.note(kept[-1]).stored).encode()
    steps = (
        lambda: git("notes", "--ref", "autoresearch", "add", "-f", "-F", "-", kept[-2].commit, input=note),
        lambda: git("notes", "--ref", "autoresearch", "remove", kept[-1].commit),
        lambda: git("branch", "-D", f"exp/{now.experiments[5].name}", f"exp/{kept[0].name}"),
        lambda: git("update-ref", "refs/heads/main", kept[-1].commit),
        lambda: git("branch", "exp/0077-mine", mine[1]),  # a person's, of two commits
        lambda: git("update-ref", "refs/heads/main", mine[0]),
        lambda: git("update-ref", "refs/heads/main", kept[2].commit),
    )
    for step in steps:
        step()
        fresh, again = snapshot(open_repository()), snapshot(open_repository(), now)
        found = [{**overview(each), "at": 0} for each in (again, fresh)]
        assert found[0] == found[1]
        now = again


def test_the_commands_that_take_an_experiment_bring_along_what_it_stands_on(few, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", few, clone], check=True)
    monkeypatch.chdir(few)
    now = snapshot(open_repository())
    for each in now.experiments:
        found = experiment(now, each)
        git = lambda *args: subprocess.run(["git", *args], cwd=clone, capture_output=True, text=True)  # noqa: E731
        git("checkout", "-q", "--detach", now.main)
        done = git(*found["commands"][0].split()[1:])
        assert done.returncode == 0 or "empty" in done.stderr + done.stdout, done.stderr
        taken = git("show", "HEAD:train.py").stdout.encode()
        assert taken == now.known.source(each.commit) or now.known.on_main(each.commit)


@needs_browser
@pytest.mark.parametrize("answers", [(), (("One", FASTER),), (("Bad", BROKEN),)])
def test_a_report_of_next_to_nothing_says_so(research, watch, tmp_path, answers):
    if answers:
        session(research, *answers)
    assert harness("report", "-o", str(tmp_path / "r.html"), cwd=research.folder).returncode == 0
    seen = watch((tmp_path / "r.html").as_uri())
    for view in ("overview", "experiments", "tree", "real", "time"):
        text = seen.look(view).inner_text("main")
        if view in ("overview", "experiments", "tree"):
            state = {"Bad": "crash"}.get(answers[0][0], "0001") if answers else "There is no experiment yet"
            assert state in text, view


@needs_browser
@pytest.mark.alone
def test_a_session_is_watched_from_its_start_to_its_end(research, watch):
    (research.folder / ".autoresearch" / "events.jsonl").unlink(missing_ok=True)
    with serving(research.folder) as (address, _):
        page = watch(address).look()
        assert "Nothing runs" in page.inner_text("main")
        late = []

        def tell(event):
            if event.kind == "measured" and event.experiment is not None:
                began = time.monotonic()
                wanted = f"a[href='#/experiment/{event.experiment.name.number}'] + .state:not(.begun)"
                page.wait_for_selector(wanted, timeout=5000)
                late.append(time.monotonic() - began)

        from sessions import loop_in

        loop_in(research.folder, Script(("One", FASTER), ("Two", WORSE)), tell, experiments=2).run()
        assert len(late) == 2 and max(late) < 1
        page.wait_for_selector("text=Nothing runs", timeout=3_000)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    fill(folder, 10_000)
    return folder


@needs_browser
@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_experiments_are_there_in_two_seconds_and_move_smoothly(many, watch, tmp_path):
    with serving(many) as (address, process):
        time.sleep(4)  # the server reads the repository as it starts
        seen = watch(address, viewport={"width": 1440, "height": 900})
        page = seen.page
        began = time.monotonic()
        page.goto(address)
        page.wait_for_selector(".chart canvas")
        assert time.monotonic() - began < 2
        assert longest_frame(page, ZOOM) < 50
        page = seen.look("experiments")
        page.wait_for_selector("tbody tr")
        assert longest_frame(page, SCROLL) < 50
        spent = seconds_of(process.pid)
        time.sleep(5)
        assert seconds_of(process.pid) - spent < 0.05
    assert harness("report", "-o", str(tmp_path / "r.html"), cwd=many).returncode == 0
    assert (tmp_path / "r.html").stat().st_size < 8e6


ZOOM = """(step) => {
  const plot = page.current.plot(), wide = 10000 * Math.pow(0.9, step % 40);
  plot.setScale("x", { min: 5000 - wide / 2, max: 5000 + wide / 2 });
}"""
SCROLL = "(step) => { document.querySelector('.rows').scrollTop = 350 * step * step % 330000; }"


def longest_frame(page, move):
    """Milliseconds of work in the longest of 120 frames, in each of which something moves."""
    return page.evaluate(
        f"""async () => {{
          const move = {move}; let longest = 0;
          for (let step = 0; step < 120; step++) {{
            await new Promise(requestAnimationFrame);
            const began = performance.now();
            move(step);
            const line = new MessageChannel();
            await new Promise((done) => {{ line.port1.onmessage = done; line.port2.postMessage(0); }});
            longest = Math.max(longest, performance.now() - began);
          }}
          return longest;
        }}"""
    )


def seconds_of(process):
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
