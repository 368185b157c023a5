"""What a model says, without what it thought before it said it."""

OPENS, CLOSES = "<think>", "</think>"


def without_thinking(text: str) -> str:
    """The text behind the blocks `<think>...</think>` that it begins with; empty where such a block is not closed, for then nothing was said.

    Some chat templates write the opening tag themselves, and a reply then begins inside the block: what stands before a first closing tag that nothing opens is
    thinking too. Tags further on are an answer's own words.
    """
    while text.lstrip().startswith(OPENS) or CLOSES in text.partition(OPENS)[0]:
        text = text.partition(CLOSES)[2]
    return text
