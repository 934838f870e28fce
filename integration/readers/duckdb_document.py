"""Runs the SQL statements of a document.

usage: duckdb_document.py < STATEMENTS

STATEMENTS is a JSON list of texts. Prints a JSON list with what each finds: the names of the columns, and the
rows as texts.
"""

import json
import sys

from duckdb_year import connect


def main() -> None:
    db = connect()
    found = []
    for statement in json.load(sys.stdin):
        cursor = db.execute(statement)
        columns = [column[0] for column in cursor.description]
        found.append([columns, *([str(value) for value in row] for row in cursor.fetchall())])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
