"""Rates `billing_events` again, in SQL and from the price files alone, and compares with a usage report.

usage: duckdb_usage.py ZONE_FOLDER PRICES_FOLDER CONTRACTS_FILE USAGE_CSV

Prints one JSON object: how many lines were compared, the billed sums by currency, and up to ten lines that
differ. Amounts are whole numbers of 10^-18 (HUGEINT), so nothing is rounded but where an invoice line is.
Knows flat and graduated prices.
"""

import glob
import importlib
import json
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import duckdb

MINOR_DIGITS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that reads Delta tables."""
    db = duckdb.connect(config={"memory_limit": "4GB"})
    package = importlib.import_module("duckdb_extension_delta")
    [file] = glob.glob(f"{package.__path__[0]}/extensions/*/delta.duckdb_extension")
    db.execute(f"LOAD '{file}'")
    return db


def steps(price: dict, book: str, owner: str) -> list[tuple]:
    """A row for each step: whose, which SKU, which currency, above and up to which quantity, at which price."""
    model, tier, _ = price["sku_id"].rsplit("/", 2)
    rows = []
    for currency, points in price["currency"].items():
        above = 0
        for point in points:
            up_to = point.get("up_to", 2**62)
            parts = int(Decimal(point["price"]) * 10**12)
            rows.append((book, owner, model, tier, price["meter"], currency, above, up_to, parts))
            above = up_to
    return rows


def load_prices(db: duckdb.DuckDBPyConnection, prices: str, contracts: str) -> None:
    rows = []
    for file in sorted(Path(prices).glob("*.toml")):
        version = tomllib.loads(file.read_text())
        for price in version["price"]:
            rows += steps(price, version["version"], "")
    for contract in tomllib.loads(Path(contracts).read_text())["contract"]:
        for price in contract.get("price", []):
            rows += steps(price, "", contract["version"])
    db.execute(
        "CREATE TABLE step (price_version TEXT, contract_version TEXT, model TEXT, tier TEXT, meter TEXT,"
        " currency TEXT, above BIGINT, up_to BIGINT, price HUGEINT)"
    )
    db.executemany("INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.execute("CREATE TABLE minor AS SELECT * FROM (VALUES " + ", ".join(
        f"('{currency}', {10 ** (18 - digits)}::HUGEINT)" for currency, digits in MINOR_DIGITS.items()
    ) + ") AS t(currency, unit)")


# One line for each thing that is charged, as `report usage` has them.
LINES = """
CREATE TABLE line AS
SELECT tenant_id, usage_period, model_id, service_tier, billing_currency AS currency, price_version,
       coalesce(contract_version, '') AS contract_version, meter, sum(quantity)::BIGINT AS quantity
FROM (UNPIVOT (SELECT tenant_id, usage_period, model_id, service_tier, billing_currency, price_version, contract_version,
                      input_uncached_tokens, input_cached_tokens, output_tokens
               FROM delta_scan('{zone}/billing_events') WHERE billable)
      ON input_uncached_tokens, input_cached_tokens, output_tokens INTO NAME meter VALUE quantity)
GROUP BY ALL HAVING quantity <> 0
"""

# The price of a model of its own comes before that of any model, and a negotiated one before the list.
RATED = """
CREATE TABLE rated AS
WITH found AS (
    SELECT line.*, step.contract_version <> '' AS negotiated, step.model, above, up_to, price
    FROM line JOIN step ON step.meter = line.meter AND step.tier = service_tier AND step.currency = line.currency
     AND step.model IN (model_id, '*')
     AND (step.price_version = line.price_version OR step.contract_version = line.contract_version AND step.contract_version <> '')
), best AS (
    SELECT * EXCLUDE (best_model) FROM (
        SELECT *, max(model) OVER (PARTITION BY tenant_id, usage_period, model_id, service_tier, currency, price_version,
                                   contract_version, meter, negotiated) AS best_model FROM found)
    WHERE model = best_model
), priced AS (
    SELECT * EXCLUDE (above, up_to, price, model),
           greatest(least(quantity, up_to) - above, 0)::HUGEINT * price AS amount
    FROM best
)
SELECT tenant_id, usage_period, model_id, service_tier, currency, price_version, contract_version, meter,
       any_value(quantity) AS quantity,
       (sum(amount) FILTER (NOT negotiated))::HUGEINT AS list,
       coalesce(sum(amount) FILTER (negotiated), sum(amount) FILTER (NOT negotiated))::HUGEINT AS contracted
FROM priced GROUP BY ALL
"""

PARTS = "(CASE WHEN contains({0}, '.') THEN split_part({0}, '.', 1) || rpad(split_part({0}, '.', 2), 18, '0') ELSE {0} || repeat('0', 18) END)::HUGEINT"

REPORTED = """
CREATE TABLE reported AS
SELECT tenant_id, usage_period, model_id, service_tier, currency, price_version,
       coalesce(contract_version, '') AS contract_version, meter, quantity::BIGINT AS quantity,
       {list} AS list, {contracted} AS contracted, {billed} AS billed
FROM read_csv('{csv}', all_varchar = true) WHERE meter <> 'requests'
"""

COMPARED = """
SELECT * FROM (
    SELECT rated.*, ((contracted + unit // 2) // unit) * unit AS billed FROM rated JOIN minor USING (currency)
) AS ours FULL JOIN reported USING (tenant_id, usage_period, model_id, service_tier, currency, price_version, contract_version, meter)
WHERE (ours.quantity, ours.list, ours.contracted, ours.billed)
   IS DISTINCT FROM (reported.quantity, reported.list, reported.contracted, reported.billed)
LIMIT 10
"""


def main() -> None:
    zone, prices, contracts, csv = sys.argv[1:]
    db = connect()
    load_prices(db, prices, contracts)
    db.execute(LINES.format(zone=zone))
    db.execute(RATED)
    amounts = {name: PARTS.format(f"{name}_amount") for name in ("list", "contracted", "billed")}
    db.execute(REPORTED.format(csv=csv, **amounts))
    differing = db.execute(COMPARED).fetchall()
    sums = db.execute("SELECT currency, sum(billed)::HUGEINT FROM reported GROUP BY ALL ORDER BY ALL").fetchall()
    [[compared]] = db.execute("SELECT count(*) FROM rated").fetchall()
    print(json.dumps({"compared": compared, "billed": {c: str(s) for c, s in sums}, "differing": [str(r) for r in differing]}))


if __name__ == "__main__":
    main()
