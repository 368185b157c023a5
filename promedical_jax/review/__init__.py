"""Review by physicians, double blind, with Label Studio: what they see, what they said of it, how far they agree, and what settles it.

Label Studio runs elsewhere, in an environment of its own; we talk to it over HTTP, or read and write its files.
"""
