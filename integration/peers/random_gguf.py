"""Writes a GGUF file of random weights in the shape of microsoft/bitnet-b1.58-2B-4T: TQ2_0, with a Q6_K embedding."""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 30, 2560, 6912, 20, 5, 128_256, 4096
BLOCK = 256  # weights that share a scale


def ternary(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Blocks of 64 bytes with four codes 0 to 2 each, and an f16 scale that keeps products near 1."""
    codes = rng.integers(0, 3, (4, rows, cols // BLOCK, 64), dtype=np.uint8)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    scale = np.full((rows, cols // BLOCK, 1), (cols * 2 / 3) ** -0.5, np.float16).view(np.uint8)
    return np.concatenate([packed, scale], axis=-1).reshape(rows, -1)


def six_bits(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Blocks of 128 bytes of low bits, 64 of high bits, 16 int8 scales and an f16 scale."""
    blocks = cols // BLOCK
    bits = rng.integers(0, 256, (rows, blocks, 192), dtype=np.uint8)
    scales = rng.integers(16, 33, (rows, blocks, 16), dtype=np.uint8)
    scale = np.full((rows, blocks, 1), 1e-3, np.float16).view(np.uint8)
    return np.concatenate([bits, scales, scale], axis=-1).reshape(rows, -1)


def write(path: str) -> None:
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "bitnet")
    writer.add_name("random 2b4t")
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    writer.add_tokenizer_model("no_vocab")
    kv_dim = HIDDEN // HEADS * KV_HEADS
    matrices = {
        "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv_dim, HIDDEN), "attn_v": (kv_dim, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN), "ffn_down": (HIDDEN, FEED_FORWARD),
    }
    norms = {"attn_norm": HIDDEN, "attn_sub_norm": HIDDEN, "ffn_norm": HIDDEN, "ffn_sub_norm": FEED_FORWARD}
    writer.add_tensor("token_embd.weight", six_bits(rng, VOCABULARY, HIDDEN), raw_dtype=Type.Q6_K)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for name, (rows, cols) in matrices.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", ternary(rng, rows, cols), raw_dtype=Type.TQ2_0)
        for name, length in norms.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(length, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
