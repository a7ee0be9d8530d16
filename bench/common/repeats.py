"""The repeats that bench_local and bench_processes wrote as JSON, and which of them compare.

The hypervisor moves virtual CPUs, so each repeat carries the round trip of a cache line before and
after it; its label is their class. Only repeats of one class are compared: that at which most rivals
have been measured at least three times.
"""
import collections
import json
import statistics

ENOUGH = 3
MOVED = "moved"


def load(paths):
    """{work: {distance: {rival: [items per second]}}}, and what failed."""
    works = collections.defaultdict(
        lambda: collections.defaultdict(lambda: collections.defaultdict(list)))
    failed = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            runs = json.load(file)["benchmarks"]
        for run in runs:
            if run.get("run_type") != "iteration" or "line_before" not in run:
                continue
            name = run["name"].split("/iterations:")[0]
            if run.get("error_occurred"):
                failed.append(f"{name}: {run['error_message']}")
                continue
            work, rival = name.rsplit("/", 1)
            if run["label"] != MOVED:
                works[work][run["label"]][rival].append(run["items_per_second"])
    return works, failed


def settled(places):
    """The class with most to compare, and {rival: median} there."""
    def measured(where):
        return sum(len(values) >= ENOUGH for values in places[where].values())
    where = max(places, key=measured)
    return where, {rival: statistics.median(values) for rival, values in places[where].items()
                   if len(values) >= ENOUGH}
