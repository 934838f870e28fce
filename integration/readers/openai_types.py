"""Reads every answer in `results` as the `openai` package's own types, and prints how many there were of each.

OpenAI has no `/v1/score`. Its answer, ours alone, is described here, with OpenAI's type for what both have.

usage: openai_types.py s3://BUCKET/ZONE ERRORS.jsonl      (AWS_* in the environment)

Types are checked strictly, and a field that the type does not know is an error. ERRORS.jsonl has the lines of
failed requests, as `bitnet jobs results` writes them.
"""

import json
import os
import sys
from collections import Counter
from typing import Literal

from deltalake import DeltaTable
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.completion_usage import CompletionUsage
from openai.types.shared import ErrorObject
from pydantic import BaseModel, ConfigDict

OPTIONS = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}


class ScoredChoice(BaseModel):
    """One continuation of the prompt, in the order asked."""

    model_config = ConfigDict(extra="allow")  # as openai's types, so that what is unknown is found the same way
    index: int
    text: str
    logprob: float  # natural, the sum over its tokens
    tokens: int
    is_greedy: bool  # every token was the likeliest at its place


class Score(BaseModel):
    """An answer of `/v1/score`."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["score"]
    created: int
    model: str
    choices: list[ScoredChoice]
    usage: CompletionUsage


TYPES = {
    "/v1/completions": Completion,
    "/v1/chat/completions": ChatCompletion,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/score": Score,
}


def drop_first_of_echo(body: dict) -> None:
    """Takes away the first token's null, which OpenAI itself answers where a prompt is echoed, against its types."""
    for choice in body.get("choices", []):
        logprobs = choice.get("logprobs") or {}
        if logprobs.get("token_logprobs", [0])[:1] == [None]:
            assert logprobs["top_logprobs"][0] is None
            for entries in logprobs.values():
                del entries[0]


def read(kind: type[BaseModel], body: dict) -> BaseModel:
    """The body as an object of this type."""
    drop_first_of_echo(body)
    value = kind.model_validate_json(json.dumps(body), strict=True)
    refuse_unknown(value)
    return value


def refuse_unknown(value: object) -> None:
    """Raises ValueError at a field that a type does not name."""
    if isinstance(value, BaseModel):
        if value.model_extra:
            raise ValueError(f"{type(value).__name__} knows no {sorted(value.model_extra)}")
        for _, inner in value:
            refuse_unknown(inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_unknown(inner)


def check(answer: BaseModel) -> None:
    """What the types leave open: choices in order, and one list entry for each token."""
    if isinstance(answer, CreateEmbeddingResponse):
        assert answer.data[0].embedding, "an empty vector"
        return
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    if isinstance(answer, Score):
        assert answer.usage.completion_tokens == 0, "a score writes nothing"
        assert answer.usage.prompt_tokens > sum(choice.tokens for choice in answer.choices)
        assert all(choice.text and choice.tokens > 0 and -1e4 < choice.logprob < 0 for choice in answer.choices)
    for choice in answer.choices:
        if isinstance(answer, Completion) and choice.logprobs:
            lists = (choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs)
            assert len({len(entries) for entries in (*lists, choice.logprobs.text_offset)}) == 1


def main() -> None:
    uri, errors = sys.argv[1:]
    rows = DeltaTable(f"{uri}/results", storage_options=OPTIONS).to_pyarrow_table().to_pylist()
    counts = Counter()
    for row in rows:
        if row["status"] == "ok":
            answer = read(TYPES[row["endpoint"]], json.loads(row["response"]))
            check(answer)
            counts[type(answer).__name__] += 1
    with open(errors, encoding="utf-8") as lines:
        for line in lines:
            response = json.loads(line)["response"]
            assert response["status_code"] in (400, 404), response
            read(ErrorObject, response["body"]["error"])
            counts["ErrorObject"] += 1
    print(json.dumps(counts), flush=True)
    # Arrow's reader threads may still be ending; the interpreter's orderly end then aborts now and then.
    os._exit(0)


if __name__ == "__main__":
    main()
