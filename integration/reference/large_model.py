"""Writes a model of the shape of microsoft/bitnet-b1.58-2B-4T with random weights, to measure how a large model loads.

    python large_model.py /tmp/2b4t

1.2 GB: packed ternary weights, a bfloat16 embedding of 128,256 tokens that is the head too, the byte tokenizer of the tiny models.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

import tiny_models

LAYERS, HIDDEN, FEED_FORWARD, VOCAB = 30, 2560, 6912, 128256
HEADS, KEY_VALUE_HEADS, HEAD_DIM = 20, 5, 128
PROJECTIONS = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
    "mlp.up_proj": (FEED_FORWARD, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED_FORWARD),
}


def main(directory):
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    kind = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    config = {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS, "max_position_embeddings": 4096, "hidden_act": "relu2", "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "eos_token_id": 2, "quantization_config": kind,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tiny_models.write_tokenizer(directory)
    found = {
        "model.embed_tokens.weight": torch.empty(VOCAB, HIDDEN, dtype=torch.bfloat16).normal_(generator=generator),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, size in [
            ("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN), ("self_attn.attn_sub_norm", HIDDEN), ("mlp.ffn_sub_norm", FEED_FORWARD),
        ]:
            found[prefix + name + ".weight"] = torch.ones(size, dtype=torch.bfloat16)
        for name, (rows, cols) in PROJECTIONS.items():
            # two bits of a random byte each become 0, 1 or 2: a code of 3 becomes 1
            drawn = torch.randint(0, 256, (rows // 4, cols), dtype=torch.uint8, generator=generator)
            found[prefix + name + ".weight"] = drawn ^ ((drawn & drawn >> 1 & 0x55) << 1)
            found[prefix + name + ".weight_scale"] = torch.tensor([0.03]).bfloat16()
    save_file(found, directory / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
