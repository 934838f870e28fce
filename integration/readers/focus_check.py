"""Checks a FOCUS 1.2 file with `focus-validator` and prints the names of the rules that fail, as a JSON list.

usage: focus_check.py FILE.parquet      (CSV has no types, so that whole quantities would pass for integers)

The validator ends with 0 whatever it finds, so its JUnit report is read. It opens its list of currencies
relative to the current folder, so it runs where it is installed.
"""

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import focus_validator

def main() -> None:
    file = Path(sys.argv[1]).resolve()
    site_packages = Path(focus_validator.__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [
            Path(sys.executable).with_name("focus-validator"),
            *("--data-file", file, "--validate-version", "1.2", "--block-download"),
            *("--output-type", "unittest", "--output-destination", report),
        ]
        run = subprocess.run(command, cwd=site_packages, capture_output=True, text=True)
        if not report.exists():
            sys.exit(f"focus-validator wrote no report: {run.stdout}{run.stderr}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    if len(cases) < 100:
        sys.exit(f"focus-validator checked {len(cases)} rules only")
    failed = {case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    print(json.dumps(sorted(name.split(" ")[0].rstrip(":") for name in failed)))


if __name__ == "__main__":
    main()
