"""Writes tiny GGUF models with the gguf package, and the Hugging Face directory of the same weights to compare against.

What is in a GGUF file is dequantized and stored as plain float32, ternary numbers apart from their scale, so that
transformers computes with exactly the weights that the engine reads. Sizes are multiples of 256, the block of TQ1_0, TQ2_0 and Q6_K.
"""

import dataclasses
import json
import math
import pathlib
import zlib

import gguf
import numpy as np
import torch
from gguf.gguf_writer import TensorInfo
from safetensors.torch import save_file

import gguf_tokenizers

Type = gguf.GGMLQuantizationType
I2_S = 36  # bitnet.cpp's own; the gguf package does not have it
I2_S_BLOCK = 128
HIDDEN = FEED_FORWARD = 256
HEADS, KEY_VALUE_HEADS, HEAD_DIM = 4, 2, 64
VOCAB = 384
CONTEXT = 128
EPS = 1e-5


@dataclasses.dataclass
class Kind:
    """One model, stored in as many files as `ternary` has types."""

    name: str
    architecture: str   # general.architecture
    hidden_act: str
    ternary: list
    embedding: Type
    tokenizer: str
    head: Type | None = None
    layers: int = 1
    rope: dict = dataclasses.field(default_factory=dict)

    @property
    def is_bitnet(self):
        return self.architecture.startswith("bitnet")


KINDS = [
    # microsoft/bitnet-b1.58-2B-4T-gguf
    Kind(
        name="bitnet-b1.58", architecture="bitnet-b1.58", hidden_act="relu2", ternary=[I2_S, Type.TQ1_0, Type.TQ2_0], embedding=Type.F16,
        tokenizer="bpe", layers=2, rope={"rope_theta": 500000.0},
    ),
    # 1bitLLM/bitnet_b1_58-3B
    Kind(
        name="bitnet", architecture="bitnet", hidden_act="silu", ternary=[I2_S], embedding=Type.Q8_0, tokenizer="spm",
        rope={"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0},
    ),
    # a ternary Llama 3.1: rows of queries and keys permuted, rotary factors as a tensor
    Kind(
        name="llama", architecture="llama", hidden_act="silu", ternary=[Type.TQ2_0], embedding=Type.Q6_K, head=Type.Q8_0, tokenizer="bpe",
        rope={
            "rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
]

PROJECTIONS = {
    "attn_q": ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
    "attn_k": ("self_attn.k_proj", KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": ("self_attn.v_proj", KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": ("mlp.gate_proj", FEED_FORWARD, HIDDEN),
    "ffn_up": ("mlp.up_proj", FEED_FORWARD, HIDDEN),
    "ffn_down": ("mlp.down_proj", HIDDEN, FEED_FORWARD),
}


NAMES = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def gguf_name(name):
    """The GGUF name of a table or norm."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{NAMES[part]}.weight"
    return NAMES[stem] + ".weight"


class Weights:
    """The seeded weights of one model: `tables` and `norms` by their Hugging Face names, `ternary` by (layer, GGUF name)."""

    def __init__(self, kind):
        generator = np.random.default_rng(zlib.crc32(kind.name.encode()))

        def norm(size):
            return (1 + 0.1 * generator.standard_normal(size)).astype(np.float32)

        self.tables = {"model.embed_tokens.weight": quantized(kind.embedding, generator)}
        if kind.head:
            self.tables["lm_head.weight"] = quantized(kind.head, generator)
        self.norms = {"model.norm.weight": norm(HIDDEN)}
        self.ternary = {}
        for layer in range(kind.layers):
            prefix = f"model.layers.{layer}."
            self.norms[prefix + "input_layernorm.weight"] = norm(HIDDEN)
            self.norms[prefix + "post_attention_layernorm.weight"] = norm(HIDDEN)
            if kind.is_bitnet:
                self.norms[prefix + "self_attn.attn_sub_norm.weight"] = norm(HEADS * HEAD_DIM)
                self.norms[prefix + "mlp.ffn_sub_norm.weight"] = norm(FEED_FORWARD)
            for name, (_, rows, cols) in PROJECTIONS.items():
                values = generator.integers(-1, 2, (rows, cols)).astype(np.float32)
                scale = np.float32(np.float16(generator.uniform(0.03, 0.06)))  # exact in every format
                self.ternary[layer, name] = values, scale
        self.ternary[0, "ffn_down"][0][:, :256][3] = 0  # a block of zeros has no scale in TQ1_0 and TQ2_0


def quantized(kind, generator):
    """A table [VOCAB, HIDDEN]: its bytes in the type of the file, and the numbers they stand for."""
    values = (generator.standard_normal((VOCAB, HIDDEN)) / 4).astype(np.float32)
    if kind == Type.F16:
        stored = torch.tensor(values).bfloat16().float().numpy().astype(np.float16)
        return stored, stored.astype(np.float32)
    if kind == Type.Q6_K:  # the gguf package only reads these, so the bytes are drawn
        blocks = VOCAB * HIDDEN // 256
        stored = generator.integers(0, 256, (blocks, 210), dtype=np.uint8)
        stored[:, 208:] = np.full((blocks, 1), 2e-4, dtype=np.float16).view(np.uint8)
        stored = stored.reshape(VOCAB, -1)
    else:
        stored = gguf.quants.quantize(values, kind)
    return stored, gguf.quants.dequantize(stored, kind)


def i2_s(values, scale):
    """bitnet.cpp's bytes: 128 weights in 32, the first of four in the upper bits; behind them the scale, padded to 32."""
    codes = (values.reshape(-1, 4, I2_S_BLOCK // 4) + 1).astype(np.uint8)
    packed = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
    return np.concatenate([packed.reshape(-1), np.frombuffer(np.float32(scale).tobytes().ljust(32, b"\0"), dtype=np.uint8)])


def permuted(values, heads):
    """The order of rows that llama.cpp wants of queries and keys: those that turn together side by side."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def rope_factors(rope):
    """What convert_hf_to_gguf.py of llama.cpp writes for the scaling of Llama 3."""
    frequencies = 1 / rope["rope_theta"] ** (np.arange(0, HEAD_DIM, 2, dtype=np.float32) / HEAD_DIM)
    factor, low, high, trained = (rope[key] for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
    factors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < trained / high:
            factors.append(1)
        elif wavelength > trained / low:
            factors.append(factor)
        else:
            smooth = (trained / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def write_gguf(path, kind, weights, ternary):
    """One file, in the way of llama.cpp's converters."""
    writer = gguf.GGUFWriter(path, kind.architecture)
    writer.add_name(kind.name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(kind.layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(VOCAB)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(kind.rope["rope_theta"])
    if kind.rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(kind.rope["factor"])
    gguf_tokenizers.add(writer, kind.tokenizer)
    if kind.rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(kind.rope))
    for name, (stored, _) in weights.tables.items():
        table_type = kind.head if name == "lm_head.weight" else kind.embedding
        writer.add_tensor(gguf_name(name), stored, raw_dtype=table_type)
    for name, values in weights.norms.items():
        writer.add_tensor(gguf_name(name), values)
    for (layer, name), (values, scale) in weights.ternary.items():
        if kind.architecture == "llama" and name in ["attn_q", "attn_k"]:
            values = permuted(values, HEADS if name == "attn_q" else KEY_VALUE_HEADS)
        full_name = f"blk.{layer}.{name}.weight"
        if ternary == I2_S:
            stored = i2_s(values, scale)
            writer.tensors[-1][full_name] = TensorInfo(shape=values.shape, dtype=I2_S, nbytes=stored.nbytes, tensor=stored)
        else:
            writer.add_tensor(full_name, gguf.quants.quantize(values * scale, ternary), raw_dtype=ternary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hugging_face(directory, kind, weights):
    """The same model for transformers."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BitNetForCausalLM" if kind.is_bitnet else "LlamaForCausalLM"],
        "model_type": "bitnet" if kind.is_bitnet else "llama",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": kind.layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": CONTEXT,
        "hidden_act": kind.hidden_act, "rms_norm_eps": EPS, "rope_parameters": {"rope_type": "default", **kind.rope},
        "tie_word_embeddings": kind.head is None, "torch_dtype": "float32",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    found = {name: torch.tensor(values) for name, (_, values) in weights.tables.items()}
    found |= {name: torch.tensor(values) for name, values in weights.norms.items()}
    for (layer, name), (values, scale) in weights.ternary.items():
        prefix = f"model.layers.{layer}.{PROJECTIONS[name][0]}."
        found[prefix + "weight"], found[prefix + "weight_scale"] = torch.tensor(values), torch.tensor([scale])
    save_file(found, directory / "model.safetensors", metadata={"format": "pt"})


def file_name(kind, ternary):
    return f"{kind.name}-{'i2_s' if ternary == I2_S else ternary.name.lower()}.gguf"


def write_all(root: pathlib.Path, references: pathlib.Path):
    """Writes every file under `root`, and under `references` a directory for transformers, of the kind's name."""
    root.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        weights = Weights(kind)
        for ternary in kind.ternary:
            write_gguf(root / file_name(kind, ternary), kind, weights, ternary)
        write_hugging_face(references / kind.name, kind, weights)
