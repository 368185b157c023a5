"""Forward and backward of Qwen3-8B with LoRA on a frozen base, on one GPU: ours beside `transformers` with PEFT, in the same run.

    pip install torch transformers peft accelerate && python -m benchmarks.gpu_backbone
    python -m benchmarks.gpu_backbone --tiny      # the same on a small model, on any machine: does it run?

Random weights in bfloat16, rows of 4,096 tokens, cross-entropy on every token, gradients of the adapters alone, no activation recomputed on either side;
`transformers` attends with the fastest of its implementations that runs. Each side has a process of its own, for each takes the GPU's memory. Prints one
JSON line: tokens a second and MFU of both (medians), by the operations that the mathematics asks for.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # bfloat16 operations a second, dense
RANK, TOKENS, STEPS, WARMUP = 16, 4096, 10, 3
TINY: dict[str, Any] = {"vocabulary": 512, "width": 64, "depth": 2, "kv_heads": 2, "query_heads": 2, "head": 16, "feed_forward": 128}


def config(tiny: bool) -> Any:
    from promedical_jax.model.hf import known_config

    full = known_config("Qwen/Qwen3-8B")
    return replace(full, **TINY) if tiny else full


def ours(tiny: bool, rows: int, tokens: int) -> list[float]:
    """Seconds of each step."""
    import jax
    import jax.numpy as jnp

    from promedical_jax.model import lora, transformer
    from promedical_jax.model.layout import assemble, tree
    from promedical_jax.model.logprob import cross_entropy
    from promedical_jax.model.transformer import Compute

    model = replace(config(tiny), adapter_scale=2.0)
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key, x: jnp.full(x.shape, 1.0, "bfloat16") if x.ndim < 3 else 0.02 * jax.random.normal(key, x.shape, "bfloat16")  # noqa: E731
    frozen = jax.tree.map(lambda x: jax.jit(draw, static_argnums=1)(keys[0], jax.ShapeDtypeStruct(x.shape, "bfloat16")), transformer.shapes(model))
    adapters = lora.init(model, RANK, lora.TARGETS, keys[1])
    ids = jax.random.randint(keys[2], (rows, tokens), 0, model.vocabulary)
    layout = tree(tokens)

    @jax.jit
    def step(adapters, frozen, ids):
        def loss(adapters):
            params = lora.join(frozen, {"adapters": adapters})
            batch = assemble(layout, [ids[:, None]], [jnp.full((rows, 1), tokens)])
            hidden = transformer.forward(params, model, batch, layout, Compute("bfloat16", "none"))
            return cross_entropy(hidden[:, :-1], ids[:, 1:], transformer.unembedding(params), jnp.ones((rows, tokens - 1), bool))

        return jax.value_and_grad(loss)(adapters)

    return timed(lambda: jax.block_until_ready(step(adapters, frozen, ids)))


def theirs(tiny: bool, rows: int, tokens: int) -> list[float]:
    """Seconds of each step, with the fastest attention that runs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen3Config

    from promedical_jax.model.hf import hf_config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = Qwen3Config(**{name: value for name, value in hf_config(config(tiny)).items() if name not in ("architectures", "model_type")})
    ids = torch.randint(0, fields.vocab_size, (rows, tokens), device=device)
    best: list[float] = []
    for attention in ("flash_attention_3", "flash_attention_2", "sdpa"):
        try:
            with torch.device(device):
                base = AutoModelForCausalLM.from_config(fields, dtype=torch.bfloat16, attn_implementation=attention)
            modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=modules)).train()

            def step(model: Any = model) -> None:
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
                model.zero_grad()
                if device == "cuda":
                    torch.cuda.synchronize()

            seconds = timed(step)
        except (ImportError, ValueError, RuntimeError) as error:
            print(f"{attention}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        best = min(best or seconds, seconds, key=statistics.median)
        del base, model
    return best


def timed(step: Callable[[], Any]) -> list[float]:
    seconds = []
    for _ in range(WARMUP + STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds[WARMUP:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "theirs"])
    asked = parser.parse_args()
    tokens = 128 if asked.tiny else TOKENS
    if asked.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[asked.side](asked.tiny, asked.rows, tokens)))
        return
    from promedical_jax.model.layout import tree
    from promedical_jax.plan import flops

    seconds = {}
    for side in ("ours", "theirs"):
        line = [sys.executable, "-m", "benchmarks.gpu_backbone", "--side", side, "--rows", str(asked.rows), *(["--tiny"] if asked.tiny else [])]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} failed\n{done.stderr}")
        seconds[side] = statistics.median(json.loads(done.stdout.splitlines()[-1]))
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    gpu = "" if asked.tiny else subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    peak = next((peak for name, peak in PEAKS.items() if name in gpu), float("nan"))
    work = flops.update(config(asked.tiny), tree(tokens), asked.rows, tokens - 1, "none", lora=True).model
    figures = {side: {"tokens_per_second": asked.rows * tokens / took, "mfu": work / took / peak, "seconds": took} for side, took in seconds.items()}
    print(json.dumps({"gpu": gpu, "rows": asked.rows, "tokens": tokens, "rank": RANK, **figures, "ratio": seconds["theirs"] / seconds["ours"]}))


if __name__ == "__main__":
    main()
