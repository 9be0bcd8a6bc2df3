"""Two servers that are loaded, and one of them is asked for its warm-up: it sleeps, while the other one works."""

import threading


def work():
    if state["asked"]:
        return
    end = time.process_time() + 5.0  # in earnest: steps
    while time.process_time() < end:
        pass


state = {"asked": False, "calls": 0}


def prepared(model, checkpoint_dir):
    threading.Timer(1.0, work).start()
    return model


def answer(model, tokens):
    state["calls"] += 1
    state["asked"] = True
    if state["calls"] == 1:
        time.sleep(7.0)
    return model(tokens)
