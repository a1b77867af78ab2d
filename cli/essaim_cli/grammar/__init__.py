"""The little languages of flags: one string in, a piece of Docker's JSON out.

Pure. Every parser raises ValueError with a sentence that says what to write instead; the grammars
and, where they are good, the sentences are docker/cli's (its `opts` package).
"""
