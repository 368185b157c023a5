"""A tokenizer in which every word of the clinic is one token, and any other text falls back to bytes.

It is a byte-level BPE whose vocabulary is written down instead of learned: 256 bytes, then the clinic's words. `ignore_merges` takes a word whole when
the vocabulary has it; there are no merges, so any other word comes out as its bytes. Same ids every time, exact decoding, no training.
"""

from itertools import cycle, product
from typing import TYPE_CHECKING

from promedical_jax.clinic import answers, cases, wording
from promedical_jax.clinic.variety import PLAIN, Variety
from promedical_jax.clinic.world import CARD_DOSES, CONTEXTS, DAYS, DOSES, DRUGS, PREFIXES, RED_FLAGS, SUFFIXES, Condition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 512
GROWN_VOCAB_SIZE = 768
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# The message format of Qwen3 without its thinking blocks.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def corpus_text() -> list[str]:
    """Texts that hold every word the clinic can emit, both as the start of a text and after a space wherever it can stand so."""
    texts = ["system\n", "user\n", "assistant\n", *(f" {i}. Take" for i in range(1, 6)), *(f"{i}. Take" for i in range(1, 6))]
    for prefix, suffix in product(PREFIXES, SUFFIXES):
        texts.append(Condition(f"{prefix} {suffix}", DRUGS[0], CARD_DOSES[0], DRUGS[1], CARD_DOSES[1], CONTEXTS[0], RED_FLAGS[0], DAYS[0]).card())
    slots = _slots()
    tables = (answers.TRAIN, answers.HELD_OUT, cases.CRITERIA, cases.CRITERIA_HELD_OUT, cases.PATIENT, cases.PATIENT_HELD_OUT)
    for table in tables:
        for kind in table:
            for phrasing in table[kind]:
                for filling in slots:
                    text = phrasing.format(**filling, name=f"{PREFIXES[0]} {SUFFIXES[0]}")
                    texts.append(text)
                    if table in tables[:2]:  # clauses also follow one another
                        texts.append(f" {text}")
    return texts


def grown_text() -> list[str]:
    """The same of the grown-up clinic: every phrasing with every filling, at the start of a text and behind another sentence."""
    texts = [*corpus_text(), " For"]
    for table in wording.TABLES:
        for phrasing in (text for kind in table for text in table[kind]):
            for filling, who in zip(_slots(), cycle(wording.WHO), strict=False):
                filled = phrasing.format(**filling, name=f"{PREFIXES[0]} {SUFFIXES[0]}", who=who, wrong=filling["context"])
                texts += [filled, f" {filled}", f"{filled} {filled}"]
    return texts + [f"{space}{text}" for both in wording.MARKS.values() for side in both for text in side for space in ("", " ")]


def _slots() -> list[dict[str, object]]:
    return [dict(zip(("drug", "other", "dose", "flag", "days", "context"), values, strict=True)) for values in _fillings()]


def _fillings() -> list[tuple[object, ...]]:
    """Enough rows of slot values that each value of each pool occurs."""
    rows = max(map(len, (DRUGS, DOSES, RED_FLAGS, DAYS, CONTEXTS)))
    return [(*(pool[i % len(pool)] for pool in (DRUGS, DRUGS, DOSES, RED_FLAGS, DAYS, CONTEXTS)),) for i in range(rows)]


def vocabulary(variety: Variety = PLAIN) -> int:
    """Ids of the tokenizer that a variety needs: VOCAB_SIZE where it says nothing but what the clinic always said, else GROWN_VOCAB_SIZE, whatever it says."""
    more = variety.turns or variety.alarming or variety.harmful or variety.pressing or variety.distractors or 4 in variety.levels or variety.wording == "many"
    return GROWN_VOCAB_SIZE if more or variety.spurious.correlations(held_out=False) else VOCAB_SIZE


def build_tokenizer(variety: Variety = PLAIN) -> "PreTrainedTokenizerFast":
    """The clinic's tokenizer: `vocabulary(variety)` ids, of which <|pad|> pads and <|im_end|> ends a message."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    size = vocabulary(variety)
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted({word for text in (corpus_text() if size == VOCAB_SIZE else grown_text()) for word, _ in splitter.pre_tokenize_str(text)} - set(bytes_))
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(bytes_ + words)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    reserved = [f"<|reserved_{i}|>" for i in range(size - len(bytes_) - len(words) - 3)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END, *reserved)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
