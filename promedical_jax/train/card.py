"""The README.md beside weights that leave: what they are, from what and by which recipe. It makes no claims."""

import re
from pathlib import Path
from typing import Any

from promedical_jax.config import GrpoConfig, RmConfig, SftConfig, Stage
from promedical_jax.model import hf
from promedical_jax.recipe import dump


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
    GrpoConfig: "A policy after GRPO: its sampled answers were scored by a frozen criterion-conditioned reward model, with an advantage that keeps the veto.",
}
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


def model_card(recipe: Stage, step: int | None = None) -> str:
    """README.md of what a stage trained: what it is, from what, and by which recipe. `step`: of the checkpoint, None the last."""
    kind = {SftConfig: "sft", RmConfig: "rm", GrpoConfig: "grpo"}[type(recipe)]
    is_reward = isinstance(recipe, RmConfig)
    what = REWARD if is_reward else POLICY[type(recipe)]
    done = recipe.steps if step is None else step
    whole = "" if done == recipe.steps else ", so training was not finished"
    adapted = f" Adapters of rank {recipe.lora.rank} were trained beside frozen weights; they are merged into these." if recipe.lora.rank else ""
    trained = f"Trained by `promedical train {kind}` of promedical_jax, from `{recipe.model}`."
    body = [
        what,
        f"{trained} These are the weights after step {done:,} of {recipe.steps:,}{whole}.{adapted}",
        f"## The recipe\n\n```yaml\n{dump(recipe)}```",
    ]
    tags = ["promedical-jax", "jax", kind, *(["reward-model"] if is_reward else []), *(["lora"] if recipe.lora.rank else [])]
    return _card("Reward model" if is_reward else "Policy", body, tags, base_model(recipe.model), generates=not is_reward)


def imported_card(source: dict[str, Any]) -> str:
    body = f"The weights of `{source.get('source', 'an unknown model')}`, brought through a checkpoint of promedical_jax and not trained there."
    return _card("Imported weights", [body], ["promedical-jax", "jax"], source.get("base_model"), generates=True)


def _card(title: str, body: list[str], tags: list[str], base: str | None, generates: bool) -> str:
    front = ["library_name: transformers", *([f"base_model: {base}"] if base else []), *(["pipeline_tag: text-generation"] if generates else []), "tags:"]
    limits = "This card is made from the recipe. It says nothing about quality or safety, and nothing here makes the model fit for clinical use."
    text = "\n\n".join([f"# {title}", *body, LOADING, limits])
    return "\n".join(["---", *front, *(f"- {tag}" for tag in tags), "---", "", text, ""])
