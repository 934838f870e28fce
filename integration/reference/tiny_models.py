"""Writes random tiny models, one for each form of BitNet checkpoint that the engine loads.

A model is a complete Hugging Face directory: config.json, safetensors, a byte-level tokenizer of 259 tokens. Sizes are
chosen to be awkward (60, 85, 100 and 259 divide by no vector width), weights come from a seeded generator.
"""

import dataclasses
import json
import pathlib
import zlib

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
VOCAB = len(SPECIAL_TOKENS) + 256
BOS, EOS = 1, 2


@dataclasses.dataclass
class Kind:
    """One model. `storage` says how a projection lies in the file: packed, unpacked or master."""

    name: str
    architecture: str
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_dim: int
    storage: str
    quantization: dict
    tied: bool
    config: dict
    layers: int = 2
    shards: int = 1
    dtype: str = "bfloat16"

    @property
    def is_bitnet(self):
        return self.architecture == "BitNetForCausalLM"

    @property
    def torch_dtype(self):
        return getattr(torch, self.dtype)


KINDS = [
    # as microsoft/bitnet-b1.58-2B-4T
    Kind(
        name="bitnet-packed", architecture="BitNetForCausalLM", hidden=64, feed_forward=84, heads=4, key_value_heads=2, head_dim=16,
        storage="packed", quantization={"linear_class": "autobitlinear", "quantization_mode": "offline", "modules_to_not_convert": ["lm_head"]},
        tied=True, config={"hidden_act": "relu2", "rms_norm_eps": 1e-5, "rope_theta": 500000.0},
    ),
    # as HF1BitLLM/Llama3-8B-1.58-100B-tokens: the product is divided by the scale, nothing but the method is said
    Kind(
        name="llama-bitlinear", architecture="LlamaForCausalLM", hidden=60, feed_forward=100, heads=5, key_value_heads=5, head_dim=12,
        storage="packed", quantization={}, tied=False, config={"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    ),
    # as microsoft/bitnet-b1.58-2B-4T-bf16: master weights, in two shards
    Kind(
        name="bitnet-online", architecture="BitNetForCausalLM", hidden=48, feed_forward=85, heads=6, key_value_heads=2, head_dim=8,
        storage="master", quantization={"linear_class": "autobitlinear", "quantization_mode": "online"},
        tied=False, shards=2, config={"hidden_act": "relu2", "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    ),
    # ternary weights stored as plain numbers with a scale, heads wider than hidden / heads
    Kind(
        name="llama-unpacked", architecture="LlamaForCausalLM", hidden=40, feed_forward=70, heads=4, key_value_heads=1, head_dim=14,
        storage="unpacked", quantization={"linear_class": "autobitlinear", "quantization_mode": "offline"},
        tied=False, config={"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": 14},
    ),
    # a Llama 3.1: rotary frequencies scaled, the key of old configurations; the product is multiplied by the scale
    Kind(
        name="llama-rope3", architecture="LlamaForCausalLM", hidden=64, feed_forward=80, heads=2, key_value_heads=1, head_dim=32,
        storage="packed", quantization={"linear_class": "autobitlinear", "quantization_mode": "offline"}, tied=True, shards=3,
        config={
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
        },
    ),
    # BitNet whose product is divided by the scale, with SiLU, in float16, its rotary frequencies divided by three
    Kind(
        name="bitnet-linear", architecture="BitNetForCausalLM", hidden=48, feed_forward=64, heads=3, key_value_heads=1, head_dim=16,
        storage="packed", quantization={"linear_class": "bitlinear"}, tied=False, dtype="float16",
        config={"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 3.0}},
    ),
]


def write(kind, directory):
    """Writes the whole directory of one model."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [kind.architecture],
        "model_type": "bitnet" if kind.is_bitnet else "llama",
        "vocab_size": VOCAB,
        "hidden_size": kind.hidden,
        "intermediate_size": kind.feed_forward,
        "num_hidden_layers": kind.layers,
        "num_attention_heads": kind.heads,
        "num_key_value_heads": kind.key_value_heads,
        "max_position_embeddings": 128,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": kind.tied,
        "torch_dtype": kind.dtype,
        "quantization_config": {"quant_method": "bitnet", **kind.quantization},
        **kind.config,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(directory)
    write_shards(tensors(kind), kind.shards, directory)


def tensors(kind):
    """Every tensor of the checkpoint, by its Hugging Face name."""
    generator = torch.Generator().manual_seed(zlib.crc32(kind.name.encode()))

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def norm(size):
        return (1 + 0.1 * normal(size)).to(kind.torch_dtype)

    queries, keys = kind.heads * kind.head_dim, kind.key_value_heads * kind.head_dim
    projections = {
        "self_attn.q_proj": (queries, kind.hidden),
        "self_attn.k_proj": (keys, kind.hidden),
        "self_attn.v_proj": (keys, kind.hidden),
        "self_attn.o_proj": (kind.hidden, queries),
        "mlp.gate_proj": (kind.feed_forward, kind.hidden),
        "mlp.up_proj": (kind.feed_forward, kind.hidden),
        "mlp.down_proj": (kind.hidden, kind.feed_forward),
    }
    found = {"model.embed_tokens.weight": normal(VOCAB, kind.hidden).to(kind.torch_dtype), "model.norm.weight": norm(kind.hidden)}
    if not kind.tied:
        found["lm_head.weight"] = (normal(VOCAB, kind.hidden) / kind.hidden**0.5).to(kind.torch_dtype)
    for layer in range(kind.layers):
        prefix = f"model.layers.{layer}."
        found[prefix + "input_layernorm.weight"] = norm(kind.hidden)
        found[prefix + "post_attention_layernorm.weight"] = norm(kind.hidden)
        if kind.is_bitnet:
            found[prefix + "self_attn.attn_sub_norm.weight"] = norm(queries)
            found[prefix + "mlp.ffn_sub_norm.weight"] = norm(kind.feed_forward)
        for name, shape in projections.items():
            found |= stored(kind, prefix + name, normal(*shape) / shape[1] ** 0.5)
    return found


def stored(kind, name, weight):
    """One projection as the checkpoint holds it: master weights, or ternary ones and their scale."""
    if kind.storage == "master":
        return {name + ".weight": weight.to(kind.torch_dtype)}
    scale = weight.abs().mean()
    ternary = (weight / scale).round().clamp(-1, 1)
    if kind.quantization.get("linear_class", "bitlinear") == "bitlinear":
        scale = 1 / scale
    rows = pack(ternary) if kind.storage == "packed" else ternary.to(kind.torch_dtype)
    return {name + ".weight": rows, name + ".weight_scale": scale.reshape(1).to(kind.torch_dtype)}


def pack(ternary):
    """[out, in] of -1, 0, 1 -> [out / 4, in] uint8; row r of block b sits in bits 2b..2b+1 of packed row r."""
    blocks = (ternary + 1).to(torch.uint8).chunk(4)
    return blocks[0] | blocks[1] << 2 | blocks[2] << 4 | blocks[3] << 6


def write_shards(found, shards, directory):
    """One file, or several with the index that says which holds what."""
    names = list(found)
    parts = [names[start::shards] for start in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{part + 1:05}-of-{shards:05}.safetensors" for part in range(shards)]
    for file, part in zip(files, parts):
        save_file({name: found[name].contiguous() for name in part}, directory / file, metadata={"format": "pt"})
    if shards > 1:
        bytes_len = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        places = {name: file for file, part in zip(files, parts) for name in part}
        index = {"metadata": {"total_size": bytes_len}, "weight_map": dict(sorted(places.items()))}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_tokenizer(directory):
    """A token a byte, behind the special ones; `<s>` in front of every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 128}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_all(root: pathlib.Path):
    """Writes every model under `root`."""
    for kind in KINDS:
        write(kind, root / kind.name)
