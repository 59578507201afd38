"""A llama of some 300 KB with random weights, written here so that a real engine can be run without a download.

What it says means nothing, but everything about the call is real: a tokenizer, a chat template, prefill, sampling,
a cache of keys and values, and usage counted by the engine.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CONTEXT = 2_048
_EMBEDDING = 64
_HEADS = 4
_LAYERS = 2
_FEED_FORWARD = 128
_SEED = 20_260_421
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "on",
    "for",
    "with",
    "as",
    "was",
    "that",
    "be",
    "by",
    "this",
    "are",
    "from",
    "at",
    "an",
    "not",
    "have",
    "we",
    "you",
    "they",
    "can",
    "will",
    "one",
    "all",
    "model",
    "endpoint",
    "version",
    "switch",
    "traffic",
    "token",
    "stream",
    "answer",
    "question",
    "cache",
    "limit",
    "price",
    "call",
    "gate",
    "step",
    "back",
    "safe",
]
_CHINESE = "你好我是一个模型接入点版本切换流量调用回答问题限流价格安全的了在有不这中大来上国"


def _vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Tokens with their scores and kinds: control marks, every byte (so that any text can be read), and some words."""
    tokens = [b"<unk>", b"<s>", b"</s>"]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    kinds += [gguf.TokenType.BYTE] * 256
    pieces = [*"▁abcdefghijklmnopqrstuvwxyz", *(f"▁{word}" for word in _WORDS), *dict.fromkeys(_CHINESE)]
    tokens += [piece.encode() for piece in pieces]
    kinds += [gguf.TokenType.NORMAL] * len(pieces)
    scores = [0.0] * 259 + [-float(number) for number in range(len(pieces))]
    return tokens, scores, [int(kind) for kind in kinds]


def write(path: Path) -> None:
    """Write the model as GGUF; always the same bytes."""
    tokens, scores, kinds = _vocabulary()
    random = np.random.default_rng(_SEED)

    def matrix(rows: int, columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
        return (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float16)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny random llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_TEMPLATE)

    output = matrix(len(tokens), _EMBEDDING) * np.float16(4)
    # Bytes and marks get the logit 0: the best word is far above, so the answer is words, and never ends by chance.
    output[:259] = 0
    writer.add_tensor("token_embd.weight", matrix(len(tokens), _EMBEDDING) * np.float16(8))
    writer.add_tensor("output_norm.weight", np.ones(_EMBEDDING, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(_LAYERS):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}{name}.weight", np.ones(_EMBEDDING, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{prefix}{name}.weight", matrix(_EMBEDDING, _EMBEDDING))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{prefix}{name}.weight", matrix(_FEED_FORWARD, _EMBEDDING))
        writer.add_tensor(f"{prefix}ffn_down.weight", matrix(_EMBEDDING, _FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
