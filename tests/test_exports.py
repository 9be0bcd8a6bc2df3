"""What other people's tools are given, read back by those tools."""

import csv
import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import harness
from past import fill


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    fill(folder, 12)
    return folder


def exported(folder, *args, **env):
    done = harness("export", "--to", *args, cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    said = done.stderr.strip().splitlines()[-1].split()
    return int(said[1]), int(said[4])


def test_results_begin_with_the_baseline_as_the_references_do(few):
    rows = list(csv.DictReader(io.StringIO(harness("export", cwd=few).stdout), delimiter="\t"))
    assert len(rows) == 13 and rows[0]["description"] == "baseline" and rows[0]["status"] == "keep"
    assert float(rows[0]["val_bpb"]) == 2.0 and rows[0]["memory_gb"] == "2.0"
    best = min(float(row["val_bpb"]) for row in rows if row["status"] == "keep")
    assert float(rows[0]["val_bpb"]) - best > 0  # the total improvement, as its notebook reckons it


def test_parquet_has_all_that_json_has(few, tmp_path):
    import pyarrow.parquet as parquet

    done = harness("export", "--format", "json", cwd=few)
    path = tmp_path / "results.parquet"
    os.system(f"cd {few} && {os.sys.executable} -m harness export --format parquet > {path}")
    found, wanted = parquet.read_table(path).to_pylist(), json.loads(done.stdout)
    assert [row["title"] for row in found] == [row["title"] for row in wanted]
    assert [row["value"] for row in found] == [row["val_bpb"] for row in wanted]
    assert [json.loads(row["trailers"]) for row in found] == [row["trailers"] for row in wanted]


def test_tensorboard_reads_curve_score_and_hypothesis_and_a_second_time_adds_nothing(few, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    new, _ = exported(few, "tensorboard", "--into", str(tmp_path))
    assert new >= 1 and exported(few, "tensorboard", "--into", str(tmp_path)) == (0, new)
    folder = next(path for path in tmp_path.iterdir() if not path.name.startswith("main"))
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    assert {"loss", "run/val_bpb"} <= set(found.Tags()["scalars"])
    losses = [event.value for event in found.Scalars("loss")]
    assert len(losses) > 100 and losses[0] > losses[-1]
    assert b"it may help" in found.Tensors("hypothesis/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_gets_offline_runs_once(few, tmp_path):
    pytest.importorskip("wandb")
    new, _ = exported(few, "wandb", "--into", str(tmp_path), WANDB_API_KEY="")
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == new >= 1
    assert exported(few, "wandb", "--into", str(tmp_path)) == (0, new)


def test_trackio_gets_runs_once(few, tmp_path):
    pytest.importorskip("trackio")
    new, _ = exported(few, "trackio", "--into", str(tmp_path), "--project", "mine")
    assert new >= 1 and exported(few, "trackio", "--into", str(tmp_path), "--project", "mine") == (0, new)


class MLflow(BaseHTTPRequestHandler):
    """The calls of MLflow's REST API that are made, on what is kept in `server.runs`."""

    def do_POST(self):
        what = self.path.removeprefix("/api/2.0/mlflow/")
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        runs, answer = self.server.runs, {}
        if what == "experiments/search":
            answer = {"experiments": [{"experiment_id": "1"}] if self.server.made else []}
        elif what == "experiments/create":
            self.server.made = answer = {"experiment_id": "1"}
        elif what == "runs/create":
            runs[asked["run_name"]] = {
                "tags": asked["tags"],
                "metrics": [],
                "params": [],
                "status": "RUNNING",
            }
            answer = {"run": {"info": {"run_id": asked["run_name"]}}}
        elif what == "runs/search":
            named = asked["filter"].split("'")[1]
            answer = {"runs": [named] if runs.get(named, {}).get("status") == "FINISHED" else []}
        elif what == "runs/log-batch":
            assert len(asked.get("metrics", [])) <= 1000 and len(asked.get("params", [])) <= 100
            for kind in ("metrics", "params"):
                runs[asked["run_id"]][kind] += asked.get(kind, [])
        elif what == "runs/update":
            runs[asked["run_id"]]["status"] = asked["status"]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_mlflow_gets_runs_once_over_http(few):
    with ThreadingHTTPServer(("127.0.0.1", 0), MLflow) as server:
        server.runs, server.made = {}, None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        new, _ = exported(few, "mlflow", "--into", address)
        assert exported(few, "mlflow", "--into", address) == (0, new)
        server.shutdown()
    assert len(server.runs) == new >= 1
    run = next(run for name, run in server.runs.items() if not name.startswith("main"))
    assert {"loss", "val_bpb"} <= {metric["key"] for metric in run["metrics"]}
    assert any("it may help" in tag["value"] for tag in run["tags"])


def test_a_server_that_is_not_there_is_one_line(few):
    done = harness("export", "--to", "mlflow", "--into", "http://127.0.0.1:9", cwd=few)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "mlflow server" in done.stderr
