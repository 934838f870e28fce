"""Prints what the `deltalake` package finds in `results` and `billing_events` below a URI, as one JSON object.

usage: deltalake_summary.py s3://BUCKET/ZONE      (AWS_* in the environment)

The keys are those of `Summary` in integration/src/readers.rs. Counting is plain Python on purpose: nothing
of it is shared with the DuckDB reader beside this file.
"""

import json
import os
import sys
from collections import Counter

from deltalake import DeltaTable

OPTIONS = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}


def rows(uri: str, table: str) -> list[dict]:
    """Every row of the table's newest version."""
    return DeltaTable(f"{uri}/{table}", storage_options=OPTIONS).to_pyarrow_table().to_pylist()


def repeated(rows: list[dict], *columns: str) -> int:
    """How many rows share their values of `columns` with another row."""
    counts = Counter(tuple(row[column] for column in columns) for row in rows)
    return sum(count for count in counts.values() if count > 1)


def main() -> None:
    uri = sys.argv[1]
    results, billing = rows(uri, "results"), rows(uri, "billing_events")
    left = Counter(row["result_id"] for row in results)
    right = Counter(row["result_id"] for row in billing)
    summary = {
        "results": Counter(row["status"] for row in results),
        "billing": Counter(row["outcome"] for row in billing),
        "repeated_places": repeated(results, "kafka_topic", "kafka_partition", "kafka_offset", "batch_index"),
        "repeated_results": repeated(results, "result_id"),
        "repeated_events": repeated(billing, "event_id"),
        "unmatched": sum(left[name] != 1 or right[name] != 1 for name in left | right),
        "input_tokens": sum(row["input_tokens"] for row in results),
        "billed_input_tokens": sum(row["input_uncached_tokens"] + row["input_cached_tokens"] for row in billing),
        "output_tokens": sum(row["output_tokens"] for row in results),
        "billed_output_tokens": sum(row["output_tokens"] for row in billing),
        "workers": sorted({row["worker_id"] for row in results}),
        "answers": {f"{row['job_id']}/{row['custom_id']}": row["output_text"] for row in results if row["status"] == "ok"},
    }
    print(json.dumps(summary), flush=True)
    # Arrow's reader threads may still be ending; the interpreter's orderly end then aborts now and then.
    os._exit(0)


if __name__ == "__main__":
    main()
