"""A language model that was trained for no reward, asked about each criterion: the log-odds of yes against no, zero-shot. A baseline, on the same path.

The question is the user's next turn, and the score is read where the model's reply begins, by a head that is the difference of two rows of its unembedding.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.config import Shapes
from promedical_jax.data.encode import encode, encode_text, stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import shardings
from promedical_jax.model.transformer import Compute, Dtype
from promedical_jax.reward.folder import RewardModel, model_hash
from promedical_jax.reward.judge import AS_THEY_ARE, RewardJudge
from promedical_jax.reward.scores import TIERS
from promedical_jax.reward.verdicts import UNCALIBRATED

QUESTION = "Look at your answer above. Does the following hold of it? {}\nReply with Yes or No."
YES, NO = "Yes", "No"
_ANSWER = "the answer stands here"


def open_zero_shot(folder: Path, mesh: jax.sharding.Mesh, batch: int = 8, dtype: Dtype = "float32", shapes: Shapes = AS_THEY_ARE) -> RewardJudge:
    """The language model in a folder as a judge of criteria. Raises InputError for a folder without weights, or a tokenizer that cannot ask."""
    config = hf.read_config(folder)
    tokenizer = load_tokenizer(folder, config.vocabulary)
    before, after = _turn(tokenizer)
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in (YES, NO))
    if yes == no:
        raise InputError(f"{folder}: {YES!r} and {NO!r} begin with the same token of its tokenizer, so their odds cannot be read; use another judge")
    backbone = hf.load_trained(folder, config, shardings(mesh, transformer.axes(config)), dtype)
    with jax.set_mesh(mesh):
        heads = jax.jit(partial(_heads, yes=yes, no=no), out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))(backbone)
    model = RewardModel({"backbone": backbone, "heads": heads}, config, UNCALIBRATED, model_hash(folder))

    def tell(text: str) -> list[int]:
        return [*before, *encode_text(QUESTION.format(text), tokenizer), *after]

    return RewardJudge(model, lambda case, texts=None: encode(case, tokenizer, texts, tell=tell), mesh, batch, Compute(dtype), shapes, zero_shot=True)


def _heads(backbone: Any, yes: int, no: int) -> dict[str, jax.Array]:
    """Heads of all tiers whose score is logit(yes) - logit(no)."""
    rows, everywhere = transformer.unembedding(backbone), jax.sharding.PartitionSpec()
    apart = rows.at[yes].get(out_sharding=everywhere).astype(jnp.float32) - rows.at[no].get(out_sharding=everywhere).astype(jnp.float32)
    nothing = jnp.zeros((len(TIERS),))
    return {"weight": jnp.broadcast_to(apart, (len(TIERS), len(apart))), "bias": nothing, "tie_bias": nothing}


def _turn(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the chat template puts around a question that follows an answer: from behind the answer's last token to where the reply begins."""
    mark, end = "the question stands here", tokenizer.convert_ids_to_tokens(stop_token(tokenizer))
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": mark}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    _, _, behind = text.partition(_ANSWER)
    before, found, after = behind.removeprefix(end).partition(mark)
    if not found:
        raise InputError(f"tokenizer {tokenizer.name_or_path}: its chat template drops or changes messages, so a question cannot follow an answer")
    return tokenizer.encode(before, add_special_tokens=False), tokenizer.encode(after, add_special_tokens=False)
