"""Two small tokenizers, put into GGUF files as llama.cpp's converters do, and what their own libraries make of awkward text.

`bpe` is byte-level with the pre-tokenizer of Llama 3, through `tokenizers`; `spm` is SentencePiece BPE with byte fallback,
through `sentencepiece`. Both are trained on the demo's documents.
"""

import functools
import io
import json
import pathlib

import gguf
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import chat_templates

VOCAB = 384
DOCUMENTS = pathlib.Path(__file__).parents[2] / "pipeline/demo/documents/documents.jsonl"
# tokenizer.json of meta-llama/Meta-Llama-3-8B
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BPE_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]

PLAIN = [
    "", " ", "  ", "\n", " \n\n  \t", "a", " a", "  a  b   c", "Section: libs\nDepends: libc6 (>= 2.36), libkf5\n", "don't DON'T they'Ll we'VE",
    "1 12 123 1234 12345678 3.14159 1,000,000", "größer Straße naïve café", "日本語のテキスト、漢字。", "Ω≈ç√∫˜µ≤≥÷", "🐈‍⬛👩‍👩‍👧‍👦🇩🇪 flag",
    "\u200b\u00a0\u2028x\u0301", "مرحبا שלום नमस्ते", "<s> </s> [INST] <unk>", "a\r\nb\rc\n\n\nd", "{\"k\": [1, 2.5e-3, null]}\t# comment -- --- ----",
    "▁ literal ▁▁ marks", "tabs\t\tand   spaces \n mixed\n", "x" * 70, "\u0000\u0001\u007f control", "ALL CAPS And CamelCaseWords snake_case-kebab/slash\\back",
]
SPECIAL = ["<|begin_of_text|>a<|eot_id|>\n\nb<|end_of_text|>", "User: hi<|eot_id|>Assistant: ", "<|eot_id|><|eot_id|> <|eot_id", " <|eot_id|> "]


def texts():
    return [json.loads(line)["prompt"] for line in DOCUMENTS.read_text().splitlines()[:400]]


@functools.cache
def bpe():
    """Byte-level BPE, merges ignored for what is a token already, `<|begin_of_text|>` in front."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(BPE_SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens(BPE_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))]
    )
    return tokenizer


@functools.cache
def spm():
    """SentencePiece as Llama 2 has it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts() for line in text.splitlines() if line), model_writer=model, model_type="bpe",
        vocab_size=VOCAB, byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, num_threads=1, minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def add(writer, name):
    """Puts a tokenizer into a GGUF file."""
    if name == "bpe":
        tokenizer = bpe()
        tokens = [tokenizer.id_to_token(number) for number in range(VOCAB)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.CONTROL if token in BPE_SPECIAL else gguf.TokenType.NORMAL for token in tokens])
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(tokens.index("<|begin_of_text|>"))
        writer.add_eos_token_id(tokens.index("<|end_of_text|>"))
        writer.add_add_bos_token(True)
        writer.add_chat_template(chat_templates.TEMPLATES["bitnet-2b-4t"])
        return
    model = spm()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([model.id_to_piece(number) for number in range(VOCAB)])
    writer.add_token_scores([model.get_score(number) for number in range(VOCAB)])
    writer.add_token_types([spm_type(model, number) for number in range(VOCAB)])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())


def spm_type(model, number):
    if model.is_unknown(number):
        return gguf.TokenType.UNKNOWN
    if model.is_control(number):
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if model.is_byte(number) else gguf.TokenType.NORMAL


def write(directory):
    """What the libraries make of the texts, without the token that begins one: ids, and the text of the ids."""
    found = {
        "bpe": [case(text, bpe().encode(text, add_special_tokens=False).ids, bpe().decode) for text in PLAIN + SPECIAL],
        # SentencePiece does not look for special tokens in a text, and takes U+0000 for its end
        "spm": [case(text, spm().encode(text), spm().decode) for text in PLAIN if "<" not in text and "\0" not in text],
    }
    for name, cases in found.items():
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (directory / f"tokenizer-{name}.json").write_text(f"[\n{lines}\n]\n")


def case(text, ids, decode):
    return {"text": text, "ids": ids, "decoded": decode(ids)}
