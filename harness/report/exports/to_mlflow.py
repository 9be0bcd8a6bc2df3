"""MLflow's tracking server, by its REST API 2.0: https://mlflow.org/docs/latest/rest-api.html."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from harness.errors import HarnessError
from harness.report.exports import Exported

USUAL = "http://127.0.0.1:5000"
NAME = "harness.run"  # the tag that a run is found by
BATCH, TAG_CHARS, PARAM_CHARS = 900, 4900, 490  # the server's limits are 1000, 5000 and 500
WAIT_SECONDS = 30.0


class Server:
    def __init__(self, address: str, project: str) -> None:
        self._api = f"{address.rstrip('/')}/api/2.0/mlflow"
        named = project.replace("'", "_")  # its filters know no escape
        found = self._ask("experiments/search", {"filter": f"name = '{named}'", "max_results": 1})
        known = found.get("experiments") or []
        made = known[0] if known else self._ask("experiments/create", {"name": named})
        if not isinstance(made, dict) or "experiment_id" not in made:
            raise HarnessError(f"{address} is no MLflow server", "--into http://HOST:PORT")
        self._experiment = made["experiment_id"]

    def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(f"{self._api}/{what}", data, headers)
            with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            why = error.read(300).decode("utf-8", "replace")
            raise HarnessError(
                f"MLflow says {error.code} to {what}: {why}", "--into http://HOST:PORT"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise HarnessError(f"{self._api}: {error}", "mlflow server, or --into http://HOST:PORT") from None

    def has(self, run: Exported) -> bool:
        return bool(self._found(run, "="))

    def _found(self, run: Exported, finished: str) -> list[dict[str, Any]]:
        """Those of this name whose status is (`=`) or isn't (`!=`) that of a whole one."""
        which = f"tags.`{NAME}` = '{run.id}' and attributes.status {finished} 'FINISHED'"
        asked = {"experiment_ids": [self._experiment], "filter": which, "max_results": 10}
        return self._ask("runs/search", asked).get("runs") or []

    def take(self, run: Exported) -> None:
        for half in self._found(run, "!="):  # a kill cut it short
            self._ask("runs/delete", {"run_id": half["info"]["run_id"]})
        now = int(1000 * time.time())
        note = "\n\n".join((run.title, *run.texts.values()))[:TAG_CHARS]
        tags = {NAME: run.id, "mlflow.note.content": note, "group": run.group}
        made = self._ask("runs/create", {
            "experiment_id": self._experiment, "run_name": run.id, "start_time": now,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        })["run"]["info"]["run_id"]  # fmt: skip
        params = [{"key": key, "value": str(value)[:PARAM_CHARS]} for key, value in run.config.items()]
        self._ask("runs/log-batch", {"run_id": made, "params": params})
        last = run.curve[-1][0] if run.curve else 0
        metrics = [
            _metric("loss", loss, step, now + int(1000 * seconds)) for step, seconds, loss in run.curve
        ]
        metrics += [_metric(name, value, last, now) for name, value in run.figures.items()]
        for at in range(0, len(metrics), BATCH):
            self._ask("runs/log-batch", {"run_id": made, "metrics": metrics[at : at + BATCH]})
        self._ask("runs/update", {"run_id": made, "status": "FINISHED", "end_time": now})


def _metric(name: str, value: float, step: int, at: int) -> dict[str, Any]:
    return {"key": name, "value": value, "timestamp": at, "step": step}


def make(into: str, project: str) -> Server:
    return Server(into or USUAL, project)
