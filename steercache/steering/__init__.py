"""Operations on a model's hidden states: live hooks, branches, replays and gradients, and their effect on the next token.

One function adds a vector (`steering.add`), so that live runs, replays and branches round alike. Benchmarks are scored in
`benchmarks` and `sweeps`, vectors are made in `fit`.
"""

from importlib.util import find_spec

from steercache.core.errors import MissingExtraError

if find_spec("torch") is None:
    raise MissingExtraError("steering a model needs torch", hint="pip install 'steercache[models]'")
