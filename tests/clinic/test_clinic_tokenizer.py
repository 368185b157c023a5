"""The clinic's tokenizer: one token a word, exact on any text, the same ids every time, Qwen3's message format."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.clinic.tokenizer import VOCAB_SIZE, corpus_text

TOKENIZER = build_tokenizer()


def test_size_and_special_tokens() -> None:
    assert len(TOKENIZER) == VOCAB_SIZE == max(TOKENIZER.get_vocab().values()) + 1
    assert TOKENIZER.eos_token == "<|im_end|>" and TOKENIZER.pad_token == "<|pad|>"
    assert len({TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, TOKENIZER.convert_tokens_to_ids("<|im_start|>")}) == 3


def test_every_word_is_one_token() -> None:
    cases = make_cases(100, seed=5) + make_cases(100, seed=5, held_out=True)
    messages = [m.content for c in cases for m in c.instruction]
    for text in messages + [a.text for c in cases for a in c.answers] + [k.text for c in cases for k in c.rubric.criteria] + corpus_text():
        pieces = [str(TOKENIZER.decode([i])) for i in TOKENIZER.encode(text)]
        assert "".join(pieces) == text
        for piece in pieces:
            assert len(piece) > 1 or not piece.isalpha() or piece.lower() in "ia", (piece, text)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_exactly(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=False) == text


def test_same_ids_every_time() -> None:
    assert build_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_the_chat_template_is_qwen3s_format() -> None:
    messages = [{"role": "system", "content": "Card."}, {"role": "user", "content": "Please help me."}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nCard.<|im_end|>\n<|im_start|>user\nPlease help me.<|im_end|>\n<|im_start|>assistant\n"
    whole = TOKENIZER.apply_chat_template([*messages, {"role": "assistant", "content": "Take rest."}], tokenize=False)
    assert whole == text + "Take rest.<|im_end|>\n"
    # Prompt and answer may be encoded apart: the boundary is a token boundary.
    assert TOKENIZER.encode(whole) == TOKENIZER.encode(text) + TOKENIZER.encode("Take rest.<|im_end|>\n")


@pytest.mark.parametrize("loader", [PreTrainedTokenizerFast, AutoTokenizer])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, loader: type[PreTrainedTokenizerFast]) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    text = "For Dorvane fever: usually velotrin 40 mg. Ünknown wörds 7!"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.eos_token, loaded.pad_token, loaded.chat_template) == ("<|im_end|>", "<|pad|>", TOKENIZER.chat_template)
