"""From the first proposal to the last decision of one `harness loop`."""
