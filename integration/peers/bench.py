"""Times the engine and llama.cpp in turns over the shape of 2B-4T, and prints how many times faster the engine is.

Each case is measured in rounds, first one, then the other; the ratio is taken within a round, so that what slows the
machine slows both, and is given as its median with its least and its most.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import llama
import random_gguf


class Ours:
    """`bitnet model bench --in-turns`: it names a case, waits for a line, and answers with the seconds of a step."""

    def __init__(self, binary: str, rounds: int, threads: int, record: pathlib.Path):
        command = [binary, "model", "bench", "--shape", "2b4t", "--in-turns", "--rounds", str(rounds)]
        command += ["--threads", str(threads), "--json", str(record)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def case(self) -> dict | None:
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["seconds"]


def theirs(run: llama.Run, batch: int) -> float:
    """Seconds of a step, over as many as the engine takes in a round."""
    if batch == 0:
        return run.prompt()
    steps = 8 if batch <= 8 else 4
    return sum(run.step() for _ in range(steps)) / steps


def measure(ours: Ours, model: llama.Model, rounds: int, threads: int) -> list[dict]:
    results, run = [], None
    while (case := ours.case()) is not None:
        name, tokens = case["case"], case["tokens"]
        batch = tokens if name.startswith("decode") else 0
        if not results or results[-1]["name"] != name:
            if run:
                run.close()
            run = model.run(max(batch, 1), threads)
            if batch:
                run.start()
            else:
                run.prompt()  # untimed
            results.append({"name": name, "tokens": tokens, "rounds": []})
        results[-1]["rounds"].append([ours.seconds(), theirs(run, batch)])
        if len(results[-1]["rounds"]) == rounds:
            report(results[-1])
    if ours.process.wait() != 0:
        raise SystemExit("bitnet model bench failed")
    return results


def report(result: dict) -> None:
    ratios = sorted(theirs / ours for ours, theirs in result["rounds"])
    rate = [result["tokens"] / statistics.median(seconds) for seconds in zip(*result["rounds"])]
    result["ratio"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    result["tokens_per_second"] = {"bitnet": rate[0], "llama.cpp": rate[1]}
    low, high = f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"
    print(f"{result['name']:<18} {rate[0]:>9.1f} {rate[1]:>9.1f}   {result['ratio'][0]:>5.2f} x ({low} to {high})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", help="the binary `bitnet`")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here, too")
    arguments = parser.parse_args()
    path = arguments.work / "random-2b4t.gguf"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        random_gguf.write(str(unfinished))
        unfinished.rename(path)
    ours_record = arguments.work / "ours.json"
    ours = Ours(arguments.binary, arguments.rounds, arguments.threads, ours_record)
    model = llama.Model(str(path), random_gguf.VOCABULARY)
    print(f"{'tokens/s':<18} {'bitnet':>9} {'llama.cpp':>9}   bitnet is faster by")
    results = measure(ours, model, arguments.rounds, arguments.threads)
    if arguments.json:
        record = {"peer": "llama.cpp TQ2_0, Q6_K embedding", "unix_time": int(time.time()), "cases": results}
        record["ours"] = json.loads(ours_record.read_text())
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
