"""A model behind an OpenAI-compatible endpoint, by the weights and the mathematics that trained it.

`slots` is the device's side: a cache with a row for each answer under way, and a few tokens of all of them at a time. `engine` decides on the host who sits
in which row; `text` makes text of tokens as they come; `protocol` is what clients may say and are told; `chat` and `score` are the two questions; `app` is
HTTP, with keys, limits and an orderly end; `run` puts these together by a `recipe`.
"""
