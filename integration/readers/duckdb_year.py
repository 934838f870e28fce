"""Bills a year again, in SQL and from the ledger, the locks, the price files and the contracts alone.

usage: duckdb_year.py STORE_FOLDER ZONE PRICES_FOLDER CONTRACTS_FILE USAGE_CSV FOCUS_PARQUETS

Compares what it makes with the invoices of the closed months, with a usage report and with the sums of FOCUS
files, and prints one JSON object: how many rows of each kind it made, and up to ten of each that differ.
Amounts are whole numbers of 10^-18 (HUGEINT), so nothing is rounded but where an invoice line is. Knows flat
and graduated prices, fees, minimums and one tax rate a contract; no credits.
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
CLASSES = {"input_uncached_tokens": "input", "input_cached_tokens": "cached_input", "output_tokens": "output"}
ONE = 10**18


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that reads Delta tables."""
    db = duckdb.connect(config={"memory_limit": "6GB"})
    package = importlib.import_module("duckdb_extension_delta")
    [file] = glob.glob(f"{package.__path__[0]}/extensions/*/delta.duckdb_extension")
    db.execute(f"LOAD '{file}'")
    return db


def table(db: duckdb.DuckDBPyConnection, name: str, columns: str, rows: list[tuple]) -> None:
    """Makes a table of many rows at once; `executemany` takes a statement each."""
    db.execute(f"CREATE TABLE {name} ({columns})")
    width = columns.count(",") + 1
    for at in range(0, len(rows), 1_000):
        some = rows[at : at + 1_000]
        values = ", ".join(["(" + ", ".join(["?"] * width) + ")"] * len(some))
        db.execute(f"INSERT INTO {name} VALUES {values}", [value for row in some for value in row])


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


def load_terms(db: duckdb.DuckDBPyConnection, prices: str, contracts: str) -> None:
    rows, agreed = [], []
    for file in sorted(Path(prices).glob("*.toml")):
        version = tomllib.loads(file.read_text())
        for price in version["price"]:
            rows += steps(price, version["version"], "")
    for contract in tomllib.loads(Path(contracts).read_text())["contract"]:
        for price in contract.get("price", []):
            rows += steps(price, "", contract["version"])
        fee, minimum = (int(Decimal(contract.get(name, "0")) * ONE) for name in ("fee_per_month", "minimum_per_month"))
        agreed.append(
            (contract["tenant_id"], contract["effective_from"][:7], contract["currency"], fee, minimum, int(contract.get("tax_rate", "0")))
        )
    table(
        db,
        "step",
        "price_version TEXT, contract_version TEXT, model TEXT, tier TEXT, meter TEXT, currency TEXT, above BIGINT,"
        " up_to BIGINT, price HUGEINT",
        rows,
    )
    table(db, "contract", "tenant_id TEXT, first_month TEXT, currency TEXT, fee HUGEINT, minimum HUGEINT, tax_rate INTEGER", agreed)
    table(db, "minor", "currency TEXT, unit HUGEINT", [(c, 10 ** (18 - digits)) for c, digits in MINOR_DIGITS.items()])
    table(db, "class", "meter TEXT, class TEXT", list(CLASSES.items()))


def load_locks(db: duckdb.DuckDBPyConnection, store: str, zone: str) -> list[str]:
    """Which month reads which file of the ledger; the months."""
    months, files = [], []
    for lock in sorted(Path(store).glob("_billing/periods/*/lock.json")):
        month = lock.parent.name
        months.append(month)
        named = json.loads(lock.read_text())["zones"][zone]["files"]
        files += [(f"{store}/{zone}/billing_events/{file['path']}", month) for file in named]
    table(db, "file", "filename TEXT, billed_in TEXT", files)
    table(db, "month", "billed_in TEXT", [(month,) for month in months])
    return [name for name, _ in files]


# What is charged alike, by region and the month that bills it. What cancels out within a region was not used.
USED = """
CREATE TABLE used AS
SELECT tenant_id, billing_currency AS currency, usage_period, billed_in, model_id, service_tier, meter, price_version,
       coalesce(contract_version, '') AS contract_version, region, sum(quantity)::BIGINT AS quantity
FROM (UNPIVOT (SELECT * FROM event WHERE billable)
      ON input_uncached_tokens, input_cached_tokens, output_tokens INTO NAME meter VALUE quantity)
WHERE quantity <> 0
GROUP BY ALL HAVING sum(quantity) <> 0
"""

# Wherever it was used.
SOLD = "CREATE TABLE sold AS SELECT * EXCLUDE (region, quantity), sum(quantity)::BIGINT AS quantity FROM used GROUP BY ALL"

# Steps count on from month to month: a late event costs what it adds. The price of a model of its own comes
# before that of any model, and a negotiated one before the list.
RATED = """
CREATE TABLE rated AS
WITH running AS (
    SELECT *, sum(quantity) OVER (PARTITION BY tenant_id, currency, usage_period, model_id, service_tier, meter,
                                  price_version, contract_version ORDER BY billed_in)::BIGINT AS after FROM sold
), found AS (
    SELECT running.*, step.contract_version <> '' AS negotiated, step.model, above, up_to, price
    FROM running JOIN step ON step.meter = running.meter AND step.tier = service_tier AND step.currency = running.currency
     AND step.model IN (model_id, '*')
     AND (step.price_version = running.price_version
          OR step.contract_version = running.contract_version AND step.contract_version <> '')
), best AS (
    SELECT *, max(model) OVER (PARTITION BY tenant_id, currency, usage_period, billed_in, model_id, service_tier, meter,
                               price_version, contract_version, negotiated) AS best_model FROM found
), priced AS (
    SELECT *, price * (sign(after) * greatest(least(abs(after), up_to) - above, 0)
                       - sign(after - quantity) * greatest(least(abs(after - quantity), up_to) - above, 0))::HUGEINT AS amount
    FROM best WHERE model = best_model
)
SELECT tenant_id, currency, usage_period, billed_in, model_id, service_tier, meter, price_version, contract_version,
       any_value(quantity) AS quantity,
       (sum(amount) FILTER (NOT negotiated))::HUGEINT AS list,
       coalesce(sum(amount) FILTER (negotiated), sum(amount) FILTER (NOT negotiated))::HUGEINT AS contracted
FROM priced GROUP BY ALL
"""

ROUNDED = "(sign({0})::HUGEINT * ((abs({0}) + unit // 2) // unit) * unit)"

LINES = f"""
CREATE TABLE line AS
SELECT * EXCLUDE (unit), {ROUNDED.format('contracted')} AS amount FROM (
    SELECT tenant_id, currency, billed_in, usage_period,
           CASE WHEN usage_period < billed_in THEN 'correction' ELSE 'usage' END AS kind,
           model_id || '/' || service_tier || '/' || class AS sku,
           sum(quantity)::BIGINT AS quantity, sum(list)::HUGEINT AS list, sum(contracted)::HUGEINT AS contracted
    FROM rated JOIN class USING (meter) GROUP BY ALL
) JOIN minor USING (currency)
"""

DUE = """
INSERT INTO line
SELECT tenant_id, currency, billed_in, billed_in, kind, NULL, 1, amount, amount, amount FROM (
    SELECT tenant_id, currency, billed_in, 'fee' AS kind, fee AS amount
    FROM contract JOIN month ON first_month <= billed_in WHERE fee > 0
    UNION ALL
    SELECT tenant_id, currency, billed_in, 'minimum', minimum - used FROM (
        SELECT tenant_id, currency, month.billed_in, minimum, coalesce((
            SELECT sum(amount)::HUGEINT FROM line WHERE kind = 'usage' AND line.billed_in = month.billed_in
             AND line.tenant_id = contract.tenant_id AND line.currency = contract.currency
        ), 0) AS used
        FROM contract JOIN month ON first_month <= month.billed_in WHERE minimum > 0
    ) WHERE minimum > used
)
"""

INVOICES = f"""
CREATE TABLE invoice AS
SELECT billed_in || '-' || lpad((row_number() OVER (PARTITION BY billed_in ORDER BY tenant_id, currency))::TEXT, 6, '0') AS number,
       tenant_id, currency, billed_in, subtotal, tax, subtotal + tax AS total
FROM (
    SELECT *, {ROUNDED.format('exact_tax')} AS tax FROM (
        SELECT i.*, (subtotal // 100 * coalesce(tax_rate, 0))::HUGEINT AS exact_tax
        FROM (SELECT tenant_id, currency, billed_in, sum(amount)::HUGEINT AS subtotal FROM line GROUP BY ALL) AS i
        LEFT JOIN contract ON contract.tenant_id = i.tenant_id AND contract.currency = i.currency AND first_month <= billed_in
    ) JOIN minor USING (currency)
)
"""

# An exact amount as text: digits, at most 18 decimals, perhaps a minus.
PARTS = (
    "(replace({0}, '.', '') || repeat('0', 18 - CASE WHEN contains({0}, '.') THEN length({0}) - position('.' IN {0}) ELSE 0 END))::HUGEINT"
)

ISSUED = """
CREATE TABLE issued AS
SELECT number, tenant_id, currency, period AS billed_in, lines, subtotal, tax, total
FROM read_json('{store}/_billing/periods/*/invoices.jsonl', format = 'newline_delimited', columns = {{
    number: 'VARCHAR', tenant_id: 'VARCHAR', currency: 'VARCHAR', period: 'VARCHAR', subtotal: 'VARCHAR', tax: 'VARCHAR', total: 'VARCHAR',
    lines: 'STRUCT(kind VARCHAR, charge_period VARCHAR, sku VARCHAR, quantity BIGINT, list VARCHAR, contracted VARCHAR, amount VARCHAR)[]'
}}, maximum_object_size = 268435456)
"""

REPORTED = """
CREATE TABLE reported AS
SELECT tenant_id, usage_period, sku_id AS sku, currency, price_version, coalesce(contract_version, '') AS contract_version,
       quantity::BIGINT AS quantity, {list} AS list, {contracted} AS contracted, {billed} AS billed
FROM read_csv('{csv}', all_varchar = true) WHERE meter <> 'requests'
"""

AMOUNTS = {name: PARTS.format(name) for name in ("subtotal", "tax", "total", "list", "contracted", "amount")}

# Each pair: what was made here, and what is to be the same.
COMPARISONS = {
    "invoices": (
        "SELECT number, tenant_id, currency, billed_in, subtotal, tax, total FROM invoice",
        f"SELECT number, tenant_id, currency, billed_in, {AMOUNTS['subtotal']}, {AMOUNTS['tax']}, {AMOUNTS['total']} FROM issued",
    ),
    **{
        name: (
            "SELECT tenant_id, currency, billed_in, usage_period, sku, quantity, list, contracted, amount"
            f" FROM line WHERE kind = '{kind}'",
            "SELECT tenant_id, currency, billed_in, charge_period, sku, quantity,"
            f" {AMOUNTS['list']}, {AMOUNTS['contracted']}, {AMOUNTS['amount']}"
            f" FROM (SELECT * EXCLUDE (lines), unnest(lines, recursive := true) FROM issued) WHERE kind = '{kind}'",
        )
        for name, kind in [("lines", "usage"), ("corrections", "correction"), ("fees", "fee"), ("minimums", "minimum")]
    },
    "usage": (
        "SELECT tenant_id, usage_period, model_id || '/' || service_tier || '/' || class AS sku, currency, price_version, contract_version,"
        " sum(quantity)::BIGINT, sum(list)::HUGEINT, sum(contracted)::HUGEINT"
        " FROM rated JOIN class USING (meter) GROUP BY ALL HAVING sum(quantity) <> 0",
        "SELECT tenant_id, usage_period, sku, currency, price_version, contract_version, quantity, list, contracted"
        " FROM reported WHERE quantity <> 0",
    ),
    "billed": (
        "SELECT tenant_id, usage_period, sku, currency, sum(amount)::HUGEINT AS billed FROM line"
        " WHERE sku IS NOT NULL GROUP BY ALL HAVING billed <> 0",
        "SELECT tenant_id, usage_period, sku, currency, sum(billed)::HUGEINT AS billed FROM reported GROUP BY ALL HAVING billed <> 0",
    ),
    "regions": (
        "SELECT billed_in, usage_period, tenant_id, currency, model_id || '/' || service_tier || '/' || class AS sku, region,"
        " sum(quantity)::BIGINT FROM used JOIN class USING (meter) GROUP BY ALL HAVING sum(quantity) <> 0",
        "SELECT strftime(BillingPeriodStart, '%Y-%m'), strftime(ChargePeriodStart, '%Y-%m'), BillingAccountId, BillingCurrency, SkuId,"
        " RegionId, sum(ConsumedQuantity)::BIGINT FROM read_parquet('{focus}') WHERE SkuMeter <> 'requests'"
        " GROUP BY ALL HAVING sum(ConsumedQuantity) <> 0",
    ),
    "focus": (
        "SELECT billed_in, tenant_id, currency, sum(total)::HUGEINT FROM invoice GROUP BY ALL",
        "SELECT strftime(BillingPeriodStart, '%Y-%m'), BillingAccountId, BillingCurrency, sum((BilledCost * 1)::DECIMAL(38,18))::DECIMAL(38,18)"
        " FROM read_parquet('{focus}') GROUP BY ALL",
    ),
}


def main() -> None:
    store, zone, prices, contracts, csv, focus = sys.argv[1:]
    db = connect()
    load_terms(db, prices, contracts)
    files = load_locks(db, store, zone)
    db.execute(
        "CREATE VIEW event AS SELECT * EXCLUDE (filename) FROM read_parquet(?, filename = true, hive_partitioning = true)"
        " JOIN file USING (filename)".replace("?", str(files))
    )
    [[rows, ids]] = db.execute("SELECT count(*), count(DISTINCT event_id) FROM event").fetchall()
    [[there]] = db.execute(f"SELECT count(*) FROM delta_scan('{store}/{zone}/billing_events')").fetchall()
    if not rows == ids == there:
        sys.exit(f"{rows} rows in locks with {ids} ids, but {there} in the ledger")
    for statement in (USED, SOLD, RATED, LINES, DUE, INVOICES, ISSUED.format(store=store)):
        db.execute(statement)
    amounts = {name: PARTS.format(f"{name}_amount") for name in ("list", "contracted", "billed")}
    db.execute(REPORTED.format(csv=csv, **amounts))
    compared, differing = {"events": rows}, {}
    for name, (ours, theirs) in COMPARISONS.items():
        theirs = theirs.replace("{focus}", focus)
        if name == "focus":
            theirs = f"SELECT * REPLACE (({PARTS.format('cost')}) AS cost) FROM (SELECT c0, c1, c2, c3::TEXT AS cost FROM ({theirs}) AS t(c0, c1, c2, c3))"
        db.execute(f"CREATE OR REPLACE TEMP TABLE ours AS {ours}")
        db.execute(f"CREATE OR REPLACE TEMP TABLE theirs AS {theirs}")
        [[compared[name]]] = db.execute("SELECT count(*) FROM ours").fetchall()
        rows = []
        for whose, one, other in (("recomputed", "ours", "theirs"), ("found", "theirs", "ours")):
            only = db.execute(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other} ORDER BY ALL LIMIT 10").fetchall()
            rows += [f"{whose}: {row}" for row in only]
        differing[name] = rows
    print(json.dumps({"compared": compared, "differing": differing}))


if __name__ == "__main__":
    main()
