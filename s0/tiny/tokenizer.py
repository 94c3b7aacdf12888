"""The tiny models' tokenizer: byte-level BPE trained on the corpus, with Qwen's chat template.

Words (with their leading space), four-space indents, newlines, digits, quoted letters and code punctuation are split
apart first, so that a merge never straddles two ideas and prompt and completion can be encoded separately.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from s0.tiny import corpus

#: Rows of the embedding. Training stops a little earlier, when every word of the corpus is one token; the rest is padding.
VOCAB_SIZE = 704
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK = ("<think>", "</think>", "<think>\n\n</think>\n\n")
TRAINING_PAIRS = 20_000
SPLIT = r"""\.?\"\"\"\n?|```|    | ?'[a-z-]?'|\)?:\n|\n| ?[a-zA-Z]+| ?[0-9]| ?[^\sa-zA-Z0-9']+| """

#: Qwen3.5's form for text-only turns: thinking off writes an empty think block, thinking on opens one.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- else %}"
    "{{- '<think>\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def train(seed: int) -> PreTrainedTokenizerFast:
    """Train on the first TRAINING_PAIRS pairs of the corpus with this seed (deterministic)."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, START, END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(THINK),
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = ["user\n", "assistant\n"] * 200
    tokenizer.train_from_iterator(chain(roles, chain.from_iterable(corpus.pairs(seed, TRAINING_PAIRS))), trainer)
    # as in Qwen's tokenizers the think tags are plain added tokens (kept when special tokens are skipped); the empty block
    # is one more so that switching thinking off costs one token
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in THINK])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save(seed: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train and write tokenizer.json, tokenizer_config.json (and the template file transformers writes beside them)."""
    fast = train(seed)
    fast.save_pretrained(folder)
    return fast
