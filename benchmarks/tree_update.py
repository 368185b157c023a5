"""GRPO's loss and its gradient on the tree, where an instruction is computed once for its G answers, beside one flat row for each answer.

    python -m benchmarks.tree_update --prompt 512 --answers 8 --answer 128

A flat row is instruction and answer, causal. Both sides look up the log-probabilities of the answers' tokens only, have the same loss with KL and entropy,
and give the gradients of all parameters; every node has its full length. Prints one JSON line: medians of alternate runs, the speed-up, the ratio of tokens,
and the largest difference of log-probabilities and gradients, each relative to its largest entry.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks import sizes

SHAPES = {"cases": 1, "prompt": 512, "answers": 8, "answer": 128}


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from promedical_jax.model import transformer
    from promedical_jax.model.layout import assemble, tree
    from promedical_jax.model.logprob import log_probs
    from promedical_jax.model.transformer import Compute
    from promedical_jax.train.policy import AnswerBatch, answer_log_probs

    b, p, g, r = (getattr(given, name) for name in SHAPES)
    config, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype, "none")
    params = sizes.weights(config, given)
    prompt, answers = (sizes.tokens(rng, config.vocabulary, *shape) for shape in ((b, p), (b, g, r)))
    batch = AnswerBatch(prompt, sizes.full(p, b), answers, sizes.full(r, b, g))
    rows = np.concatenate([np.repeat(prompt, g, 0), answers.reshape(b * g, r)], axis=1)
    layout = tree(p + r)
    gain = rng.normal(size=(b, g, 1)).astype(np.float32)

    def tree_log_probs(params, batch):
        return answer_log_probs(params, config, batch, 1.0, compute)

    def flat_log_probs(params, rows):
        ends = sizes.full(layout.tokens, len(rows), 1)
        hidden = transformer.forward(params, config, assemble(layout, [rows[:, None]], [ends]), layout, compute)
        return [x.reshape(b, g, r) for x in log_probs(hidden[:, p - 1 : -1], rows[:, p:], transformer.unembedding(params))]

    @partial(jax.jit, static_argnums=0)
    def gradient(said, params, given, old):
        def loss(params):
            now, entropy = said(params, given)
            ratio, divergence = jnp.exp(now - old), jnp.expm1(old - now) - (old - now)
            surrogate = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain)
            return jnp.mean(0.04 * divergence - surrogate - 0.001 * entropy), now

        (_, now), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return now, gradients

    batch, rows = jax.device_put((batch, rows))
    old = jax.jit(tree_log_probs)(params, batch)[0] + jax.device_put(rng.normal(0, 0.05, (b, g, r)).astype(np.float32))
    ways = {"tree": partial(gradient, tree_log_probs, params, batch, old), "flat": partial(gradient, flat_log_probs, params, rows, old)}
    error = sizes.apart(ways["tree"](), ways["flat"]())
    ratio = g * (p + r) / (p + g * r)
    sizes.publish("tree_update", sizes.compare(sizes.alternately(ways, given.times), ratio) | {"max_error": error}, given, list(SHAPES))


if __name__ == "__main__":
    main()
