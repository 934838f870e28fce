"""Makes the golden files of `engine/tests/golden`: what `transformers` computes in float32.

    python golden.py            # writes them
    python golden.py --check    # computes them again and compares

BitNet rounds activations to 8 bits before every projection, so where one lies on the border between two steps, the last
bit of a float32 sum decides, and the logits move by a thousandth. Golden prompts are those that stay put: noise of the
size of float32's own rounding does not change their answer. Any faithful implementation must then agree closely.
"""

import argparse
import filecmp
import json
import os
import pathlib
import sys
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers compiles single functions; plain execution is the reference

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.bitnet import BitLinear

import chat_templates
import gguf_models
import gguf_tokenizers
import tiny_models

transformers.utils.logging.disable_progress_bar()

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "engine/tests/golden"
DEMO_MODEL = ROOT / "pipeline/demo/model/debian-sections"
DOCUMENTS = ROOT / "pipeline/demo/documents/documents.jsonl"

PROMPT_LENGTHS = [1, 2, 7, 16, 17, 40]  # around the edge of a block of 16 positions, and over several
DOCUMENTS_GOLDEN = 8
ANSWER_TOKENS_MAX = 6
NOISE = 2e-7
NOISE_RUNS = 16
STABLE = 1e-5       # largest change of a logit under noise, relative to the row's largest magnitude
GAP_MIN = 1e-3      # between the two best logits, relative likewise
CHECK_TOLERANCE = 1e-5


class Reference:
    """A model as transformers loads it, all arithmetic in float32."""

    def __init__(self, directory):
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
        self.model = torch.nn.Module.float(model).eval()  # the packed weights stay uint8
        self.noise = None
        for module in self.model.modules():
            if isinstance(module, BitLinear):
                module.dtype = torch.float32  # it would compute in the checkpoint's type
            if type(module).__name__.endswith("RMSNorm"):
                module.register_forward_hook(self.add_noise)

    def add_noise(self, _module, _inputs, output):
        if self.noise is not None:
            return output * (1 + NOISE * torch.randn(output.shape, generator=self.noise))

    @torch.no_grad()
    def logits(self, tokens):
        """The logits behind the last token, [vocabulary]."""
        return self.model(torch.tensor([tokens])).logits[0, -1]

    def is_stable(self, tokens):
        """Whether noise leaves the logits where they are, with a clear winner."""
        plain = self.logits(tokens)
        best, second = plain.topk(2).values.tolist()
        if best - second < GAP_MIN * plain.abs().max():
            return False
        for run in range(NOISE_RUNS):
            self.noise = torch.Generator().manual_seed(run)
            noisy = self.logits(tokens)
            self.noise = None
            if distance(plain, noisy) > STABLE:
                return False
        return True


def distance(expected, found):
    """Largest difference, relative to the largest magnitude expected."""
    return ((expected - found).abs().max() / expected.abs().max()).item()


def row(logits, ids=None):
    """What is kept of one row of logits: those of `ids`, or all."""
    kept = {} if ids is None else {"ids": ids}
    shown = logits if ids is None else logits[ids]
    return {"argmax": logits.argmax().item(), "largest": short(logits.abs().max()), **kept, "logits": [short(x) for x in shown]}


def short(value):
    """The shortest decimal that reads back as the same float32."""
    return json.loads(str(value.numpy()))


def tiny_prompts(directory, vocab=tiny_models.VOCAB):
    """Random prompts of several lengths that are stable, with all their logits."""
    reference = Reference(directory)
    generator = torch.Generator().manual_seed(7)
    for length in PROMPT_LENGTHS:
        for _ in range(500):
            drawn = torch.randint(3, vocab, (length - 1,), generator=generator).tolist()
            tokens = ([tiny_models.BOS] + drawn) if length > 1 else torch.randint(3, vocab, (1,), generator=generator).tolist()
            if reference.is_stable(tokens):
                yield {"tokens": tokens, **row(reference.logits(tokens))}
                break
        else:
            sys.exit(f"{directory}: no stable prompt of {length} tokens in 500")


def demo_documents():
    """The first documents of the demo whose logits are stable, with the best of their logits and some of the others."""
    reference, tokenizer = Reference(DEMO_MODEL), AutoTokenizer.from_pretrained(DEMO_MODEL)
    found = 0
    for line in DOCUMENTS.read_text().splitlines():
        document = json.loads(line)
        tokens = tokenizer(document["prompt"]).input_ids
        if not reference.is_stable(tokens):
            continue
        answer = []
        while len(answer) < ANSWER_TOKENS_MAX and not tokenizer.decode(answer).endswith("\n"):
            answer.append(reference.logits(tokens + answer).argmax().item())
        logits = reference.logits(tokens)
        ids = sorted(set(logits.topk(32).indices.tolist()) | set(range(0, len(logits), 128)))
        yield {"id": document["id"], "prompt": document["prompt"], "tokens": tokens, "answer": answer, **row(logits, ids)}
        found += 1
        if found == DOCUMENTS_GOLDEN:
            return
    sys.exit(f"{DOCUMENTS}: only {found} stable documents")


def write_golden(path, rows):
    """One JSON object, one row a line."""
    made_with = f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}, float32"
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{{"reference": "{made_with}", "rows": [\n{lines}\n]}}\n')


def write():
    write_gguf()
    tiny_models.write_all(GOLDEN)
    for kind in tiny_models.KINDS:
        write_golden(GOLDEN / kind.name / "golden.json", tiny_prompts(GOLDEN / kind.name))
    write_golden(GOLDEN / "debian-sections.json", demo_documents())
    chat_templates.write(GOLDEN / "templates")


def write_gguf():
    with tempfile.TemporaryDirectory() as folder:
        gguf_models.write_all(GOLDEN / "gguf", pathlib.Path(folder))
        for kind in gguf_models.KINDS:
            write_golden(GOLDEN / "gguf" / f"{kind.name}.json", tiny_prompts(pathlib.Path(folder, kind.name), gguf_models.VOCAB))
    gguf_tokenizers.write(GOLDEN / "gguf")


def check():
    """Exits with what differs. Logits may differ by the order of float32 sums, which changes between processors."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        again, references = pathlib.Path(folder, "golden"), pathlib.Path(folder, "references")
        tiny_models.write_all(again)
        gguf_models.write_all(again / "gguf", references)
        gguf_tokenizers.write(again / "gguf")
        chat_templates.write(again / "templates")
        for path in sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()):
            if not (GOLDEN / path).exists() or not filecmp.cmp(again / path, GOLDEN / path, shallow=False):
                wrong.append(f"{path}: another file comes out")
        directories = {f"{kind.name}/golden.json": GOLDEN / kind.name for kind in tiny_models.KINDS} | {"debian-sections.json": DEMO_MODEL}
        directories |= {f"gguf/{kind.name}.json": references / kind.name for kind in gguf_models.KINDS}
        wrong += different_logits(directories)
    if wrong:
        sys.exit("\n".join(wrong) + "\nThe golden files are not what this version makes; run golden.py without --check and read the diff.")
    print(f"all golden files under {GOLDEN.relative_to(ROOT)} come out again")


def different_logits(directories):
    """What differs in golden files, of which the models lie in the directories."""
    for file, directory in directories.items():
        reference = Reference(directory)
        rows = json.loads((GOLDEN / file).read_text())["rows"]
        for number, golden in enumerate(rows):
            logits = reference.logits(golden["tokens"])
            shown = logits[golden["ids"]] if "ids" in golden else logits
            off = ((shown - torch.tensor(golden["logits"])).abs().max() / golden["largest"]).item()
            if off > CHECK_TOLERANCE or logits.argmax() != golden["argmax"]:
                yield (f"{file} row {number}: logits differ by {off:.1e} of the largest, at most {CHECK_TOLERANCE:.0e} is expected")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="compare instead of writing")
    check() if options.parse_args().check else write()
