"""Prints what DuckDB finds in `results` and `billing_events` below a URI, as one JSON object.

usage: duckdb_summary.py s3://BUCKET/ZONE      (AWS_* in the environment)

The keys are those of `Summary` in integration/src/readers.rs.
"""

import glob
import importlib
import json
import os
import sys
from urllib.parse import urlparse

import duckdb


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that reads Delta tables on the S3 server of the environment."""
    db = duckdb.connect()
    for name in ("httpfs", "delta"):
        package = importlib.import_module(f"duckdb_extension_{name}")
        [file] = glob.glob(f"{package.__path__[0]}/extensions/*/{name}.duckdb_extension")
        db.execute(f"LOAD '{file}'")
    endpoint = urlparse(os.environ["AWS_ENDPOINT_URL"])
    db.execute(
        "CREATE SECRET (TYPE s3, "
        f"KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', "
        f"REGION '{os.environ['AWS_REGION']}', ENDPOINT '{endpoint.netloc}', "
        f"USE_SSL {endpoint.scheme == 'https'}, URL_STYLE 'path')"
    )
    return db


def main() -> None:
    db = connect()
    for table in ("results", "billing_events"):
        db.execute(f"CREATE TABLE {table} AS FROM delta_scan('{sys.argv[1]}/{table}')")

    def one(query: str) -> int:
        return db.execute(query).fetchone()[0] or 0

    def repeated(table: str, columns: str) -> int:
        return one(f"SELECT count(*) FROM (FROM {table} QUALIFY count(*) OVER (PARTITION BY {columns}) > 1)")

    def pairs(query: str) -> dict:
        return dict(db.execute(query).fetchall())

    unmatched = """
        SELECT count(*) FROM (
            SELECT result_id, count(*) FILTER (side = 'r') AS r, count(*) FILTER (side = 'b') AS b
            FROM (SELECT result_id, 'r' AS side FROM results
                  UNION ALL SELECT result_id, 'b' FROM billing_events)
            GROUP BY result_id HAVING r != 1 OR b != 1)
    """
    summary = {
        "results": pairs("SELECT status, count(*) FROM results GROUP BY ALL"),
        "billing": pairs("SELECT outcome, count(*) FROM billing_events GROUP BY ALL"),
        "repeated_places": repeated("results", "kafka_topic, kafka_partition, kafka_offset, batch_index"),
        "repeated_results": repeated("results", "result_id"),
        "repeated_events": repeated("billing_events", "event_id"),
        "unmatched": one(unmatched),
        "input_tokens": one("SELECT sum(input_tokens) FROM results"),
        "billed_input_tokens": one("SELECT sum(input_uncached_tokens + input_cached_tokens) FROM billing_events"),
        "output_tokens": one("SELECT sum(output_tokens) FROM results"),
        "billed_output_tokens": one("SELECT sum(output_tokens) FROM billing_events"),
        "workers": [row[0] for row in db.execute("SELECT DISTINCT worker_id FROM results ORDER BY ALL").fetchall()],
        "answers": pairs("SELECT job_id || '/' || custom_id, output_text FROM results WHERE status = 'ok'"),
    }
    print(json.dumps(summary, default=int))


if __name__ == "__main__":
    main()
