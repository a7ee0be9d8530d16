"""What bench/run left in its folder, read leniently: what is missing or broken is None, or empty."""
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "common"))
import repeats  # noqa: E402 (its folder must be known first)

MOST_PAIRS = 1000


def load(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def results(document, mode):
    return [entry for entry in (document or {}).get("results", []) if entry.get("mode") == mode]


def by_size(documents, key):
    """[(size, median of all documents' repeats)] of what was measured as throughput."""
    sizes = {}
    for document in documents:
        for entry in results(document, "throughput"):
            sizes.setdefault(entry["size"], []).append(entry[key])
    return [(size, statistics.median(values)) for size, values in sorted(sizes.items())]


def quantiles(documents, size):
    """[(share, us)]: for each share the median of the documents' quantiles."""
    shares = {}
    for document in documents:
        for entry in results(document, "latency"):
            if entry.get("size") == size:
                for share, us in entry.get("quantiles_us", []):
                    shares.setdefault(share, []).append(us)
    return [(share, statistics.median(values)) for share, values in sorted(shares.items())]


def pair_files(folder, who, step):
    return [document for path in sorted(folder.glob(f"pair-*-{who}-{step}.json"))[:MOST_PAIRS]
            if (document := load(path))]


def contest(path):
    """{work: (distance, {rival: (median items per second, repeats)})} of a Google Benchmark file."""
    try:
        works, _ = repeats.load([path])
    except (OSError, ValueError, KeyError):
        return {}
    out = {}
    for work, places in works.items():
        where, medians = repeats.settled(places) if places else ("", {})
        if medians:
            out[work] = where, {rival: (value, len(places[where][rival]))
                                for rival, value in medians.items()}
    return out


def commands(path):
    """[(what, command, exit status, seconds)] from lines of bench/run's own."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    return [(row[2], row[3].replace(" ; ", "\n"), row[0], row[1]) for row in rows if len(row) == 4]
