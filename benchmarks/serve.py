"""Many clients at a time beside one after the other, over HTTP: on the same server, and on one of two slots, the fewest there are, which hardly computes empty
ones beside it.

    python -m benchmarks.serve --requests 64 --slots 16

The requests are of mixed length: instructions of up to `--prompt` letters, answers of geometric length with mean `--answer`, at most four times that; half of
them are streamed. Clients are a process of their own, on the same machine. Prints one JSON line: medians of alternate runs, answer tokens a second of each way
and how many times as fast all together are, whether the texts were the same, and the resident memory of this process, which has both servers, after each turn,
the uncounted first one included, and at its peak.
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
FEWEST = 2  # slots of a server
PAGE = resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES)
    import numpy as np

    from promedical_jax.serve.app import Server, listen

    rng = np.random.default_rng(given.seed)
    limits = np.minimum(rng.geometric(1 / given.answer, given.requests), 4 * given.answer)
    bodies = [{"model": "benchmark", "messages": [{"role": "user", "content": "abcdefghi " * (int(rng.integers(1, given.prompt)) // 10 + 1)}],
               "max_tokens": int(limit), "seed": number, "stream": number % 2 == 0} for number, limit in enumerate(limits)]  # fmt: skip
    services = {slots: _service(given, slots) for slots in (FEWEST, given.slots)}
    servers, listening = {slots: Server(one) for slots, one in services.items()}, {slots: listen("127.0.0.1", 0) for slots in services}
    threads = [Thread(target=servers[slots].run, args=([listening[slots]],)) for slots in servers]
    for thread in threads:
        thread.start()
    ways = {"few_slots": (FEWEST, 1), "one_at_a_time": (given.slots, 1), "together": (given.slots, given.requests)}  # slots, and clients at a time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, set[str]] = {name: set() for name in ways}
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        resident = []
        for turn in range(given.times + 1):
            for name, (slots, at_a_time) in ways.items():
                url = f"http://127.0.0.1:{listening[slots].getsockname()[1]}/v1/chat/completions"
                spent, said = clients.apply(ask_all, (url, bodies, at_a_time))
                texts[name].add(json.dumps(said))
                if turn:
                    seconds[name].append(spent)
            resident.append(_resident())  # the first of runs that are not counted
    for server, thread in zip(servers.values(), threads, strict=True):
        server.handle_exit(15, None)
        thread.join()
    tokens, took = int(limits.sum()), {name: statistics.median(each) for name, each in seconds.items()}
    figures = {
        "answer_tokens": tokens,
        **{f"{name}_s": round(each, 6) for name, each in took.items()},
        **{f"{name}_tokens_per_s": round(tokens / each, 1) for name, each in took.items()},
        "speedup": round(took["one_at_a_time"] / took["together"], 3),
        "speedup_over_few_slots": round(took["few_slots"] / took["together"], 3),
        "texts_identical": len(texts["one_at_a_time"] | texts["together"]) == 1,
        "texts_of_few_slots_identical": texts["few_slots"] == texts["together"],
        "device_faults": sum(one.engine.faults for one in services.values()),
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


def _service(given: Any, slots: int) -> Any:
    """A service of random weights with the clinic's tokenizer, which knows fewer tokens than the model may say: those have no letters."""
    import jax

    from promedical_jax.clinic import build_tokenizer
    from promedical_jax.model.decode import settle
    from promedical_jax.serve.engine import Engine
    from promedical_jax.serve.grammar import Grammars
    from promedical_jax.serve.recipe import ServeConfig
    from promedical_jax.serve.service import Service

    config = ServeConfig(model=Path("benchmark"), name="benchmark", slots=slots, longest=given.longest, queue=given.requests)
    model = sizes.model(given)
    weights = jax.jit(settle, static_argnums=1)(sizes.weights(model, given), given.dtype)
    engine = Engine(weights, model, count=slots, queue=given.requests, longest=given.longest, stop=-1)  # answers are as long as they may be
    engine.warm()
    tokenizer = build_tokenizer()
    return Service(config, engine, build_tokenizer(), tokenizer, Grammars(tokenizer, model.vocabulary, tokenizer.eos_token_id))


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


if __name__ == "__main__":
    main()
