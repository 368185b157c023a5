"""Many clients at a time beside one after the other, on the same server, over HTTP.

    python -m benchmarks.serve --requests 64 --slots 16

The requests are of mixed length: instructions of up to `--prompt` letters, answers of geometric length with mean `--answer`, at most four times that; half of
them are streamed. Clients are a process of their own, on the same machine. Prints one JSON line: medians of alternate runs, answer tokens a second of both ways
and their ratio, whether the texts were the same, and the server's resident memory after each turn, the uncounted first one included, and at its peak.
"""

import asyncio
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks import sizes

SHAPES = {"requests": 64, "slots": 16, "prompt": 100, "answer": 48, "longest": 512}
PAGE = resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES)
    import numpy as np

    from promedical_jax.serve.app import Server, listen

    rng = np.random.default_rng(given.seed)
    limits = np.minimum(rng.geometric(1 / given.answer, given.requests), 4 * given.answer)
    bodies = [{"model": "benchmark", "messages": [{"role": "user", "content": "abcdefghi " * (int(rng.integers(1, given.prompt)) // 10 + 1)}],
               "max_tokens": int(limit), "seed": number, "stream": number % 2 == 0} for number, limit in enumerate(limits)]  # fmt: skip
    service, listening = _service(given), listen("127.0.0.1", 0)
    server = Server(service)
    thread = Thread(target=server.run, args=([listening],))
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat/completions"
    seconds: dict[int, list[float]] = {1: [], given.requests: []}
    texts: set[str] = set()
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        resident = []
        for turn in range(given.times + 1):
            for at_a_time in seconds:
                took, said = clients.apply(ask_all, (url, bodies, at_a_time))
                texts.add(json.dumps(said))
                if turn:
                    seconds[at_a_time].append(took)
            resident.append(_resident())  # the first of runs that are not counted
    server.handle_exit(15, None)
    thread.join()
    tokens = int(limits.sum())
    one, many = (statistics.median(each) for each in seconds.values())
    figures = {
        "answer_tokens": tokens,
        "one_at_a_time_s": round(one, 4),
        "together_s": round(many, 4),
        "one_at_a_time_tokens_per_s": round(tokens / one, 1),
        "together_tokens_per_s": round(tokens / many, 1),
        "speedup": round(one / many, 3),
        "texts_identical": len(texts) == 1,
        "device_faults": service.engine.faults,
        "resident_mib": [round(each / 2**20, 1) for each in resident],
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    sizes.publish("serve", figures, given, [*SHAPES])


def ask_all(url: str, bodies: list[dict[str, Any]], at_a_time: int) -> tuple[float, list[str]]:
    """Seconds for all requests, so many at a time, and what was said to each. Raises for a status that is none of success."""
    return asyncio.run(_ask_all(url, bodies, at_a_time))


async def _ask_all(url: str, bodies: list[dict[str, Any]], at_a_time: int) -> tuple[float, list[str]]:
    import httpx2

    turns = asyncio.Semaphore(at_a_time)
    async with httpx2.AsyncClient(timeout=600, limits=httpx2.Limits(max_connections=at_a_time), trust_env=False) as client:

        async def ask(body: dict[str, Any]) -> str:
            async with turns:
                reply = (await client.post(url, json=body)).raise_for_status()
                if not body["stream"]:
                    return reply.json()["choices"][0]["message"]["content"]
                events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: {")]
                return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])

        start = time.perf_counter()
        said = await asyncio.gather(*map(ask, bodies))
        return time.perf_counter() - start, said


def _service(given: Any) -> Any:
    """A service of random weights with the clinic's tokenizer, which knows fewer tokens than the model may say: those have no letters."""
    import jax

    from promedical_jax.clinic import build_tokenizer
    from promedical_jax.model.decode import settle
    from promedical_jax.serve.engine import Engine
    from promedical_jax.serve.grammar import Grammars
    from promedical_jax.serve.recipe import ServeConfig
    from promedical_jax.serve.service import Service

    config = ServeConfig(model=Path("benchmark"), name="benchmark", slots=given.slots, longest=given.longest, queue=given.requests)
    model = sizes.model(given)
    weights = jax.jit(settle, static_argnums=1)(sizes.weights(model, given), given.dtype)
    engine = Engine(weights, model, count=given.slots, queue=given.requests, longest=given.longest, stop=-1)  # answers are as long as they may be
    engine.warm()
    tokenizer = build_tokenizer()
    return Service(config, engine, build_tokenizer(), tokenizer, Grammars(tokenizer, model.vocabulary, tokenizer.eos_token_id))


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


if __name__ == "__main__":
    main()
