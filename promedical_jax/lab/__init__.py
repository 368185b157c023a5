"""The paper's claims as experiments on the clinic, each with seeds, intervals, and a verdict.

`experiment` is what is trained, `budget` with how much, `tables` what is compared and claimed; `make` trains and `measure` measures one experiment of one seed,
`workers` many side by side; `findings` judges the claims, `report` and `page` show them.
"""
