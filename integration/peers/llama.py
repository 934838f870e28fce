"""llama.cpp through its batch API: a prompt of 512 tokens, and decoding in batches behind prompts of 128."""

import ctypes
import time

import llama_cpp as llama
import numpy as np

PROMPT_LEN, CONTEXT_LEN, POSITIONS = 512, 128, 256


class Model:
    """A GGUF file with its vocabulary's size."""

    def __init__(self, path: str, vocabulary: int):
        llama.llama_backend_init()
        self.quiet = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self.quiet, None)
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocabulary = vocabulary

    def run(self, sequences: int, threads: int) -> "Run":
        return Run(self, sequences, threads)


class Run:
    """A context for so many sequences; each step's logits are checked."""

    def __init__(self, model: Model, sequences: int, threads: int):
        params = llama.llama_context_default_params()
        params.n_ctx = max(PROMPT_LEN, POSITIONS * sequences)
        params.n_batch = params.n_ubatch = PROMPT_LEN
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False  # as llama-batched-bench has it: no sequence looks at another one's cells
        self.model, self.sequences = model, sequences
        self.context = llama.llama_init_from_model(model.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp makes no context for {sequences} sequences")
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(PROMPT_LEN, 0, 1)
        self.position = 0

    def close(self) -> None:
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.context)

    def prompt(self, length: int = PROMPT_LEN) -> float:
        """Seconds for a prompt from an empty cache to the logits of its last token."""
        llama.llama_memory_clear(self.memory, True)
        rows = [(token(i), i, 0, i == length - 1) for i in range(length)]
        self.position = length
        return self.decode(rows)

    def start(self) -> None:
        """One prompt, its cache copied to all sequences."""
        self.prompt(CONTEXT_LEN)
        for sequence in range(1, self.sequences):
            llama.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        self.step()

    def step(self) -> float:
        """Seconds for one more token of each sequence."""
        rows = [(token(s + self.position), self.position, s, True) for s in range(self.sequences)]
        self.position += 1
        return self.decode(rows)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> float:
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token_id, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token_id, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, wanted
        start = time.perf_counter()
        if llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp did not compute a batch")
        llama.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        for i, row in enumerate(rows):
            if row[3]:
                self.check(llama.llama_get_logits_ith(self.context, i))
        return seconds

    def check(self, pointer: ctypes.POINTER(ctypes.c_float)) -> None:
        """Fails unless a row of logits is finite and not all the same: a peer that computes nothing is none."""
        logits = np.ctypeslib.as_array(pointer, (self.model.vocabulary,))
        if not np.isfinite(logits).all() or np.ptp(logits) == 0:
            raise SystemExit("llama.cpp gave logits that are not finite or all the same")


def token(i: int) -> int:
    """A token that looks random."""
    return (i * 104_729 + 1) % 128_256
