"""The README.md beside weights that leave: what they are, from what and by which recipe. It makes no claims."""

import json
import re
from pathlib import Path
from typing import Any

from promedical_jax.config import DpoConfig, GrpoConfig, OnPolicy, PpoConfig, RmConfig, SftConfig, Stage
from promedical_jax.data.encode import USER_TURN
from promedical_jax.model import hf
from promedical_jax.recipe import dump
from promedical_jax.train.scalar import Scalar


def base_model(name: Path | str) -> str | None:
    """The hub's model that a name or folder comes from, as far as it says so: by its name, its place in HF's cache, or its own card."""
    if hf.is_hub_name(name):
        return str(name)
    cached = re.search(r"models--([^/]+?)--([^/]+)/snapshots/", str(Path(name).absolute()))
    if cached:
        return f"{cached[1]}/{cached[2]}"
    card = Path(name) / "README.md"
    front = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL) if card.is_file() else None
    said = re.search(r"^base_model: *([\w.-]+/[\w.-]+)$", front[1], re.MULTILINE) if front else None
    return said[1] if said else None


POLICY = {
    SftConfig: "A policy after the supervised start: it imitates the answers of the training cases, by cross-entropy on their tokens.",
    DpoConfig: "A policy after DPO: of two answers it has learned to prefer the one that the raters prefer as a whole, by the order of their verdicts.",
}


def policy_text(recipe: Stage) -> str:
    """What a policy was trained to do, and who judged that."""
    if not isinstance(recipe, OnPolicy):
        return POLICY[type(recipe)]
    there = (recipe.reward_model, "a frozen reward model"), (recipe.judge.url, "a judge behind an endpoint"), (recipe.functions, "reward functions")
    judges = " and ".join(name for given, name in there if given)
    if isinstance(recipe, GrpoConfig):
        gain = "by their scalar reward, normalised in its group" if recipe.advantage == "scalar" else "with an advantage that keeps the veto"
        return f"A policy after GRPO: its sampled answers were judged by {judges}, and each gained {gain}."
    return f"A policy after PPO: its sampled answers were judged by {judges}, and a value head gave each token its part of the scalar reward."
REWARD = (
    "The backbone of a criterion-conditioned reward model. `heads.safetensors` holds its heads, one a tier, and `calibration.json`, where there is one, makes"
    " probabilities of their scores. `transformers` loads the backbone as a causal language model; what it then writes was not trained."
)


LOADING = """## Loading it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""


# A classifier with one score

WHAT = {
    "explicit": "It scores an answer by a criterion that it is told. A head's score is the higher, the likelier the criterion's text holds, be it required or"
    " forbidden. Each head has learned the criteria of its own tier; of another tier's it knows nothing.",
    "blind": "It scores an answer and is told no criterion. A head's score is the higher, the likelier the texts of its tier's criteria hold, be they required"
    " or forbidden.",
    "implicit": "It scores an answer as a whole and is told no criterion. Of two answers its head gives the preferred one the higher score.",
}
ANSWERED = "The prompt in the chat template, then the answer, ended by `{end}`"
TOLD = f"{ANSWERED}, then the criterion as the user's next turn, ended likewise"
READ = (
    "`{end}` must be the last token: the score is read at the last token that does not pad. A chat template may write a newline after it; take that off."
    " `{pad}` pads, on either side. Control tokens in an answer or a criterion are only their letters, and models that can think are asked not to.\n\n"
    "In bfloat16 a score has three digits at most; computed in float32, close answers come apart."
)
SCORING = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "path/to/this/folder"
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
end = [tokenizer.eos_token_id]


def letters(text):
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


prompt = [{"role": "user", "content": "I cut my finger slightly. What should I do?"}]
start = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, enable_thinking=False)
tokens = tokenizer.encode(start, add_special_tokens=False)
tokens += letters("Rinse it under clean running water and dry it.") + end
%swith torch.no_grad():
    score = model(torch.tensor([tokens])).logits[0, 0].item()
```"""
CRITERION = f"""tokens += tokenizer.encode({json.dumps(USER_TURN)}, add_special_tokens=False) + letters("Says to rinse the cut with clean water.") + end
"""


def score_texts(score: Scalar) -> list[str]:
    """What a classifier with one score computes."""
    bias = f"Their bias, {score.bias:.9g}, is left out, for such a classifier has none: each score is ours minus this number, and no comparison changes."
    return [
        f"A reward model with one score, for `AutoModelForSequenceClassification`: `{score.formula}` of its heads. {WHAT[score.kind]}",
        f"{bias} No calibration comes with it: a score is no probability, and no threshold belongs to it.",
    ]


def scoring(score: Scalar) -> str:
    """What it is given, and how."""
    told = score.kind == "explicit"
    given = f"{TOLD if told else ANSWERED}. {READ}".format(end=score.end, pad=score.pad)
    return f"## What it is given\n\n{given}\n\n{SCORING % (CRITERION if told else '')}"


# The card


def model_card(recipe: Stage, step: int | None = None, score: Scalar | None = None) -> str:
    """README.md of what a stage trained: what it is, from what, and by which recipe. `step`: of the checkpoint, None the last; `score`: of a classifier."""
    kind = {SftConfig: "sft", RmConfig: "rm", DpoConfig: "dpo", GrpoConfig: "grpo", PpoConfig: "ppo"}[type(recipe)]
    is_reward = isinstance(recipe, RmConfig)
    what = score_texts(score) if score else [REWARD if is_reward else policy_text(recipe)]
    done = recipe.steps if step is None else step
    whole = "" if done == recipe.steps else ", so training was not finished"
    adapted = f" Adapters of rank {recipe.lora.rank} were trained beside frozen weights; they are merged into these." if recipe.lora.rank else ""
    trained = f"Trained by `promedical train {kind}` of promedical_jax, from `{recipe.model}`."
    body = [
        *what,
        f"{trained} These are the weights after step {done:,} of {recipe.steps:,}{whole}.{adapted}",
        f"## The recipe\n\n```yaml\n{dump(recipe)}```",
    ]
    tags = ["promedical-jax", "jax", kind, *(["reward-model"] if is_reward else []), *(["lora"] if recipe.lora.rank else [])]
    task = "text-classification" if score else None if is_reward else "text-generation"
    return _card("Reward model" if is_reward else "Policy", body, tags, base_model(recipe.model), task, scoring(score) if score else LOADING)


def imported_card(source: dict[str, Any], score: Scalar | None = None) -> str:
    body = f"The weights of `{source.get('source', 'an unknown model')}`, brought through a checkpoint of promedical_jax and not trained there."
    tags, base = ["promedical-jax", "jax"], source.get("base_model")
    if score:
        return _card("Reward model", [*score_texts(score), body], [*tags, "reward-model"], base, "text-classification", scoring(score))
    return _card("Imported weights", [body], tags, base, "text-generation", LOADING)


def _card(title: str, body: list[str], tags: list[str], base: str | None, task: str | None, use: str) -> str:
    front = ["library_name: transformers", *([f"base_model: {base}"] if base else []), *([f"pipeline_tag: {task}"] if task else []), "tags:"]
    limits = "This card is made from the recipe. It says nothing about quality or safety, and nothing here makes the model fit for clinical use."
    text = "\n\n".join([f"# {title}", *body, use, limits])
    return "\n".join(["---", *front, *(f"- {tag}" for tag in tags), "---", "", text, ""])
