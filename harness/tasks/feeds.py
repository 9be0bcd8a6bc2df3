"""Which feed a training gets. It runs inside the sandbox, and loads what the task needs and no more."""

from typing import Any

from harness.tasks.contract import Feed

TEXT, ITEMS = "text", "items"


def feed_for(spec: dict[str, Any], device: Any) -> Feed:
    """Of a run's spec, whose `feed` names one."""
    if spec["feed"] == TEXT:
        from harness.tasks.lm.feed import TextFeed

        return TextFeed(spec, device)
    from harness.tasks.items.feed import ItemsFeed

    return ItemsFeed(spec, device)
