"""One device: what trains, is scored and is watched there."""
